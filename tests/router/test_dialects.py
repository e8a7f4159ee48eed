"""The other APIs take the same way as chat completions, each in its own words."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import anthropic
import httpx
import openai
import pytest

from claude_router.matching import histories
from claude_router.sessions import PoolExhausted
from claude_worker.dialect import DIALECTS, LAST, MESSAGES, RESPONSES, Dialect, is_whole
from claude_worker.events import Begin, End, Event, Text, UsageView
from claude_worker.openai.chunks import Head
from claude_worker.openai.response_ids import response_id
from router.fakes import Exchange, FakeSessions, FakeWorker, Script
from router.harness import Endpoint, endpoint

pytestmark = pytest.mark.asyncio

TURN = "0123456789abcdef" * 2
TIP = "fedcba9876543210" * 2
EVENTS: list[Event] = [Begin(), Text("hel"), Text("lo"), End("stop", UsageView(3, 2), tip=TIP)]
USER = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    DIALECTS[0].path: {"messages": USER}, RESPONSES.path: {"input": "hello"},
    MESSAGES.path: {"messages": USER, "max_tokens": 9},
}  # fmt: skip
each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)


def body(dialect: Dialect, **more: Any) -> dict[str, Any]:
    return {"model": "claude-code", **BODIES[dialect.path], **more}


def speaks(dialect: Dialect, upto: int | None = None) -> Script:
    """A worker that answers in its dialect; with `upto`, its connection breaks after so many events."""

    async def script(exchange: Exchange) -> None:
        request = dialect.parse(exchange.request.body)
        conversation = unquote(exchange.request.headers["x-claude-conversation"])
        writer = dialect.writer(Head(TURN, 1, "claude-code", conversation), request)
        if not request.stream:
            headers = {"content-type": "application/json", "x-claude-tip": TIP}
            await exchange.whole(200, headers, writer.whole(EVENTS))
            return
        await exchange.head()
        for event in EVENTS[:upto]:
            await exchange.chunk(writer.feed(event))
        if upto is None:
            await exchange.end()
        else:
            exchange.cut()

    return script


async def post(router: Endpoint, dialect: Dialect, content: Any = None, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(body(dialect) if content is None else content)
    return await router.client.post(dialect.path, content=data, headers=sent)


def error_in(dialect: Dialect, answer: httpx.Response) -> dict[str, Any]:
    """The error of a body in the dialect's own shape."""
    found = answer.json()
    assert ("type" in found) == (dialect is MESSAGES)
    error: dict[str, Any] = found["error"]
    return error


@each
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_goes_through_unchanged(dialect: Dialect, stream: bool) -> None:
    async with FakeWorker(speaks(dialect)) as worker, endpoint(worker.endpoint) as router:
        answer = await post(router, dialect, body(dialect, stream=stream, made_up=1), x_conversation_id="c")
        metrics = (await router.client.get("/metrics")).text
    (got,) = worker.received
    assert got.line == f"POST {dialect.path} HTTP/1.1"
    assert (got.headers["x-claude-model"], got.headers["x-claude-conversation"]) == ("claude-code", "c")
    writer = dialect.writer(Head(TURN, 1, "claude-code", "c"), dialect.parse(got.body))
    assert answer.content == (b"".join(map(writer.feed, EVENTS)) if stream else writer.whole(EVENTS))
    assert answer.headers["x-conversation-id"] == "c"
    assert "x-claude-tip" not in answer.headers
    assert f'claude_http_requests_total{{route="{dialect.path}",status="200"}} 1.0' in metrics


@each
@pytest.mark.parametrize("events", [0, 2, 3])
async def test_a_stream_that_breaks_off_ends_with_an_error(dialect: Dialect, events: int) -> None:
    async with FakeWorker(speaks(dialect, events)) as worker, endpoint(worker.endpoint) as router:
        answer = await post(router, dialect, body(dialect, stream=True))
    assert b"worker_lost" in answer.content
    assert is_whole(answer.content[-LAST:], dialect.ends)


@each
async def test_errors_before_anything_have_the_apis_form(dialect: Dialect) -> None:
    async with endpoint(PoolExhausted("all busy"), api_keys=("the-right-key",)) as router:
        key = {"x_api_key": "the-right-key"}
        cases = [
            (await post(router, dialect, {}), 401, "missing_api_key"),
            (await post(router, dialect, {}, **key), 400, "missing_required_parameter"),
            (await post(router, dialect, body(dialect, model="gpt"), **key), 404, "model_not_found"),
            (await post(router, dialect, **key), 503, "pool_exhausted"),
            (await router.client.get(dialect.path), 405, "method_not_allowed"),
        ]
    for answer, status, code in cases:
        assert answer.status_code == status
        assert error_in(dialect, answer)["code"] == code


@each
async def test_a_stream_that_waits_and_then_fails(dialect: Dialect) -> None:
    sessions = FakeSessions()
    sessions.gate.clear()
    async with endpoint(PoolExhausted("all busy"), sessions=sessions, keepalive=0.01) as router:
        got = b""
        async with router.client.stream("POST", dialect.path, json=body(dialect, stream=True)) as answer:
            async for piece in answer.aiter_raw():
                got += piece
                sessions.gate.set()
    assert got.startswith(dialect.keepalive)
    assert b"pool_exhausted" in got
    assert is_whole(got[-LAST:], dialect.ends)


@each
@pytest.mark.parametrize("stream", [True, False])
async def test_the_next_request_finds_the_conversation_by_its_history(dialect: Dialect, stream: bool) -> None:
    name = "input" if dialect is RESPONSES else "messages"

    def asked(said: str) -> dict[str, Any]:
        return body(dialect, stream=stream, **{name: [*USER, {"role": "assistant", "content": said}, *USER]})

    async with FakeWorker(speaks(dialect)) as worker, endpoint(worker.endpoint) as router:
        first = await post(router, dialect, body(dialect, stream=stream))
        (key, tip) = router.sessions.tips[0]
        assert (key.id, tip) == (first.headers["x-conversation-id"], TIP)
        await post(router, dialect, body(dialect, stream=stream), x_conversation_id="mine")
        assert len(router.sessions.tips) == 1, "an id that a client has chosen is not looked for"
        (real,) = histories(dialect.parse(json.dumps(asked("hello")).encode()))
        router.sessions.tips = [(key, real)]
        again = await post(router, dialect, asked("hello"))
        other = await post(router, dialect, asked("something else"))
    assert again.headers["x-conversation-id"] == key.id
    assert other.headers["x-conversation-id"] != key.id
    assert [k.id for k, _ in router.sessions.tips[1:]] == [key.id, other.headers["x-conversation-id"]]


async def test_openais_sdk_goes_on_from_a_response() -> None:
    async with (
        FakeWorker(speaks(RESPONSES)) as worker,
        endpoint(worker.endpoint, api_keys=("the-right-key",)) as router,
    ):
        client = openai.AsyncOpenAI(api_key="the-right-key", base_url=f"http://127.0.0.1:{router.port}/v1")
        async with client:
            first = await client.responses.create(model="claude-code:a/b ü", input="hello")
            with pytest.raises(openai.NotFoundError) as gone:
                await client.responses.create(model="claude-code", input="go on", previous_response_id=first.id)
            assert len(router.sessions.acquired) == 1, "no worker is started to find that out"
            router.sessions.add("a/b ü")
            await client.responses.create(model="claude-code", input="go on", previous_response_id=first.id)
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model="claude-code", input="x", previous_response_id="resp_1")
    assert first.output_text == "hello"
    assert first.id == response_id("a/b ü", TURN)
    assert [key.id for key, _ in router.sessions.acquired] == ["a/b ü"] * 2
    assert gone.value.code == refused.value.code == "previous_response_not_found"


async def test_anthropics_sdk() -> None:
    async with FakeWorker(speaks(MESSAGES)) as worker, endpoint(worker.endpoint, api_keys=("the-right-key",)) as router:
        client = anthropic.AsyncAnthropic(
            api_key="the-right-key", base_url=f"http://127.0.0.1:{router.port}", max_retries=0
        )
        async with client:
            async with client.messages.stream(model="claude-code", max_tokens=9, messages=USER) as stream:  # type: ignore[arg-type]
                assert (await stream.get_final_message()).content[0].to_dict() == {"type": "text", "text": "hello"}
            with pytest.raises(anthropic.NotFoundError) as refused:
                await client.messages.count_tokens(model="claude-code", messages=USER)  # type: ignore[arg-type]
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="claude-opus", max_tokens=9, messages=USER)  # type: ignore[arg-type]
            with pytest.raises(anthropic.AuthenticationError):
                await client.with_options(api_key="a-wrong-key").messages.create(
                    model="claude-code",
                    max_tokens=9,
                    messages=USER,  # type: ignore[arg-type]
                )
    assert "cannot be counted" in str(refused.value)
