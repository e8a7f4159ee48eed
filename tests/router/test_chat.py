"""The chat endpoint: what it refuses, with which error, and that it survives it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from claude_router import running
from claude_router.matching import histories
from claude_router.sessions import ConversationKey
from claude_worker.dialect import DIALECTS, Dialect
from claude_worker.openai.request import parse
from router.fakes import DONE, PATIENCE, Exchange, FakeSessions, FakeWorker, frame, streams
from router.harness import CHAT, body, endpoint, error_of

pytestmark = pytest.mark.asyncio

USER = {"role": "user", "content": "hello"}

BAD: list[tuple[str, bytes | dict[str, Any], str, str | None]] = [
    ("empty", b"", "invalid_json", None),
    ("malformed", b'{"messages": [', "invalid_json", None),
    ("something behind it", json.dumps(body()).encode() + b" {}", "invalid_json", None),
    ("not UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "invalid_json", None),
    ("lone surrogate", rb'{"messages": [{"role": "user", "content": "\ud800 alone"}]}', "invalid_json", None),
    ("a list", b"[]", "invalid_body", None),
    ("a string", b'"hello"', "invalid_body", None),
    ("null", b"null", "invalid_body", None),
    ("no messages", {"model": "claude-code"}, "missing_required_parameter", "messages"),
    ("empty messages", body(messages=[]), "empty_messages", "messages"),
    ("messages not a list", body(messages="hello"), "invalid_type", "messages"),
    ("a message not an object", body(messages=["hello"]), "invalid_type", "messages[0]"),
    ("no role", body(messages=[{"content": "x"}]), "missing_required_parameter", "messages[0].role"),
    ("unknown role", body(messages=[{"role": "robot", "content": "x"}]), "invalid_role", "messages[0].role"),
    ("content a number", body(messages=[{"role": "user", "content": 7}]), "invalid_type", "messages[0].content"),
    ("last not the user's", body(messages=[USER, {"role": "assistant", "content": "x"}]), "last_message_not_user",
     "messages[1].role"),
    ("model a number", body(model=7), "invalid_type", "model"),
    ("stream a word", body(stream="yes"), "invalid_type", "stream"),
    ("conversation id a number", body(conversation_id=7), "invalid_type", "conversation_id"),
    ("metadata id a number", body(metadata={"conversation_id": 7}), "invalid_type", "metadata.conversation_id"),
    ("id too long", body(conversation_id="x" * 257), "conversation_id_too_long", "conversation_id"),
    ("n of 2", body(n=2), "unsupported_value", "n"),
    ("n of 0", body(n=0), "unsupported_value", "n"),
]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
async def test_a_body_of_very_many_parts_is_refused_before_it_is_read(dialect: Dialect) -> None:
    many = b'{"model": "claude-code", "max_tokens": 9, "%b": [' + b"{}," * 500_000 + b"{}]}"
    async with endpoint("http://127.0.0.1:9") as router:
        content = many % (b"input" if "responses" in dialect.path else b"messages")
        answer = await router.client.post(dialect.path, content=content)
        assert answer.status_code == 400
        assert "more than 500000 parts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("crowd", [True, False])
async def test_while_others_wait_a_conversation_rests_between_two_turns(
    monkeypatch: pytest.MonkeyPatch, crowd: bool
) -> None:
    """Long enough to be seen idle, or one that asks without a pause would keep its worker for ever."""
    monkeypatch.setattr(running, "REST_SECONDS", 0.3)
    clock = asyncio.get_running_loop().time
    begun: list[float] = []

    async def script(exchange: Exchange) -> None:
        begun.append(clock())
        await streams(frame("a"), DONE)(exchange)

    async with FakeWorker(script) as worker, endpoint(worker.endpoint, sessions=FakeSessions(crowd=crowd)) as router:
        await router.chat(body(), x_conversation_id="a")
        ended = clock()
        await router.chat(body(), x_conversation_id="b")
        await router.chat(body(), x_conversation_id="a")
    assert begun[1] - ended < 0.3, "another one need not rest"
    assert (begun[2] - ended >= 0.25) == crowd


async def test_bad_requests_get_400_and_leave_everything_unharmed() -> None:
    async with FakeWorker(streams(frame("a"), DONE)) as worker, endpoint(worker.endpoint) as router:
        for name, content, code, param in BAD:
            for stream in (False, True):
                sent = {**content, "stream": content.get("stream", stream)} if isinstance(content, dict) else content
                # A header would win over an id in the body, which then is not looked at.
                named = {} if param in ("conversation_id", "metadata.conversation_id") else {"x_conversation_id": "c"}
                answer = await router.chat(sent, **named)
                assert answer.status_code == 400, name
                error = error_of(answer)
                assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param), name
                assert answer.headers.get("x-conversation-id") == named.get("x_conversation_id"), name
        assert router.sessions.acquired == [], "no worker is started for a request that cannot be served"
        assert (await router.chat(x_conversation_id="c")).content == frame("a") + DONE


async def test_a_header_id_that_is_too_long() -> None:
    async with endpoint() as router:
        answer = await router.chat(x_conversation_id="x" * 257)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("conversation_id_too_long", "X-Conversation-ID")


@pytest.mark.parametrize("model", ["gpt-4o", "", "claude-code-opus-4", "CLAUDE-CODE", "claude-code/x"])
async def test_an_unknown_model(model: str) -> None:
    async with endpoint() as router:
        answer = await router.chat(body(model=model + ":talk"))
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "model_not_found", "model")
    assert "claude-code-opus" in error["message"]
    assert answer.headers["x-conversation-id"] == "talk"
    assert router.sessions.acquired == []


async def test_unknown_fields_are_accepted() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]
    content = body(messages=messages, max_tokens=32000, tool_choice="auto", made_up={"a": [1]}, temperature=None)
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        assert (await router.chat(content)).status_code == 200
    assert json.loads(worker.received[0].body) == content


async def test_a_body_over_the_limit_by_its_length() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint, max_body_bytes=2000) as router:
        answer = await router.chat(b"x" * 2001, x_conversation_id="c")
        assert answer.status_code == 413
        error = error_of(answer)
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "body_too_large", None)
        assert "2000" in error["message"]
        assert answer.headers["x-conversation-id"] == "c"
        exact = json.dumps(body()).encode().ljust(2000)
        assert (await router.chat(exact)).status_code == 200


async def test_a_body_over_the_limit_is_refused_before_it_is_sent() -> None:
    async with endpoint(max_body_bytes=2000) as router:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
        writer.close()
    assert line == b"HTTP/1.1 413 Content Too Large\r\n" or line.startswith(b"HTTP/1.1 413 ")


async def test_a_body_over_the_limit_without_a_length() -> None:
    sent = 0

    async def pieces() -> Any:
        nonlocal sent
        for _ in range(30):
            sent += 1
            yield b"x" * 100

    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint, max_body_bytes=2000) as router:
        answer = await router.client.post(CHAT, content=pieces())
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "body_too_large"
        whole = json.dumps(body()).encode()

        async def allowed() -> Any:
            for byte in whole:
                yield bytes([byte])

        assert (await router.client.post(CHAT, content=allowed())).status_code == 200
    assert worker.received[0].body == whole


async def test_a_client_that_leaves_during_its_request() -> None:
    async with endpoint() as router:
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc".encode())
        await writer.drain()
        writer.close()
        assert (await router.chat(b"{")).status_code == 400
        assert await router.app.state.running.idle(PATIENCE)
    assert router.sessions.acquired == []


async def test_keys() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint, api_keys=("the-right-key",)) as router:
        for header, code in ((None, "missing_api_key"), ("Bearer the-wrong-key", "invalid_api_key")):
            answer = await router.chat(b"not even json", **({"authorization": header} if header else {}))
            assert answer.status_code == 401
            error = error_of(answer)
            assert (error["type"], error["code"], error["param"]) == ("authentication_error", code, None)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "the-right-key" not in answer.text
        assert (await router.chat(authorization="Bearer the-right-key")).status_code == 200
    assert "the-right-key" not in json.dumps(worker.received[0].headers)


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        (b"plain", b"plain"),
        ("grüße 😀/../..".encode(), "grüße 😀/../..".encode()),
        (b"caf\xe9", "café".encode()),
        (b"100%25", b"100%25"),
    ],
)
async def test_the_conversations_id_comes_back_as_utf8(sent: bytes, returned: bytes) -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        answer = await router.client.post(CHAT, json=body(), headers={b"X-Conversation-ID": sent})
    assert dict(answer.headers.raw)[b"x-conversation-id"] == returned
    assert router.sessions.acquired[0][0].id == returned.decode()


async def test_control_characters_in_an_id_cannot_split_a_header() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat(body(conversation_id="a\r\nset-cookie: b\0\x7f"))
    assert answer.headers["x-conversation-id"] == "a%0D%0Aset-cookie: b%00%7F"
    assert "set-cookie" not in answer.headers
    assert router.sessions.acquired[0][0].id == "a\r\nset-cookie: b\0\x7f"


async def test_an_id_is_made_up_for_a_request_without() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        first, second = await router.chat(), await router.chat()
    made_up = first.headers["x-conversation-id"]
    assert made_up.startswith("conv_")
    assert made_up == router.sessions.acquired[0][0].id
    assert made_up != second.headers["x-conversation-id"]


async def test_a_key_leads_to_the_conversation_that_it_began_whatever_the_history_says() -> None:
    said = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, USER]}
    (tip,) = histories(parse(json.dumps(body(**said)).encode()))
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        first = await router.chat(body(**said), idempotency_key="once")
        router.sessions.tips = [(ConversationKey("default", "conv_another"), tip)]
        known = await router.chat(body(**said), idempotency_key="twice")
        router.sessions.add(first.headers["x-conversation-id"])
        again = await router.chat(body(**said), idempotency_key="once")
    assert again.headers["x-conversation-id"] == first.headers["x-conversation-id"]
    assert known.headers["x-conversation-id"] == "conv_another"
    assert [r.headers["idempotency-key"] for r in worker.received] == ["once", "twice", "once"]


async def test_the_deadline_is_the_queue_timeout_from_now() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint, queue_timeout=7.0) as router:
        before = asyncio.get_running_loop().time()
        await router.chat()
        after = asyncio.get_running_loop().time()
    assert before + 7.0 <= router.sessions.acquired[0][1] <= after + 7.0


async def test_draining_refuses_new_turns_and_lets_the_running_one_end() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        begun.set()
        await finish.wait()
        await exchange.end(DONE)

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        running = router.app.state.running
        turn = asyncio.create_task(router.chat(body(stream=True)))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        running.drain()
        refused = await router.chat()
        health = await router.client.get("/health")
        assert running.count == 1
        assert not await running.idle(0.01)
        finish.set()
        assert await running.idle(PATIENCE)
        assert (await turn).content == DONE
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "server_shutting_down"
    assert refused.headers["retry-after"] == "1"
    assert (health.status_code, health.json()["status"]) == (503, "draining")


async def test_one_line_in_the_log_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    content = body(messages=[{"role": "user", "content": "the-private-text"}], conversation_id="the-private-id")
    async with FakeWorker(streams(frame("the-answer"), DONE)) as worker, endpoint(worker.endpoint) as router:
        await router.chat(content, authorization="Bearer the-clients-key")
        await router.chat(b"{", x_conversation_id="the-private-id")
    lines = [r.__dict__["fields"] for r in caplog.records if r.name == "claude_router.access"]
    assert [(f["status"], f.get("error")) for f in lines] == [(200, None), (400, "invalid_json")]
    assert lines[0]["conversation"] == router.sessions.acquired[0][0].name
    assert 0 <= lines[0]["first_byte_ms"] <= lines[0]["ms"]
    everything = " ".join(str(vars(record)) for record in caplog.records)
    for secret in ("the-private-text", "the-answer", "the-clients-key", "lease-token", "'the-private-id'"):
        assert secret not in everything


async def test_a_client_that_left_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sessions = FakeSessions()
    sessions.gate.clear()
    async with endpoint("http://unused", sessions=sessions) as router:
        _, writer = await router.connect(body())
        await asyncio.wait_for(sessions.waiting.wait(), PATIENCE)
        writer.close()
        assert await router.app.state.running.idle(PATIENCE)
        metrics = (await router.client.get("/metrics")).text
    (line,) = [r.__dict__["fields"] for r in caplog.records if r.name == "claude_router.access"]
    assert (line["status"], "error" in line) == (499, False)
    assert f'claude_http_requests_total{{route="{CHAT}",status="499"}} 1.0' in metrics
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_bug_before_the_turn_is_answered_as_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: bytes) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr("claude_worker.dialect.parse_chat", broken)
    async with endpoint() as router:
        answer = await router.chat()
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == ["chat request failed"]


async def test_an_unforeseen_failure_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with endpoint(RuntimeError("boom")) as router:
        answer = await router.chat()
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert "boom" not in answer.text
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info
    assert "boom" in str(record.exc_info[1])
