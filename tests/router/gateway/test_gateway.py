"""From the worker to the model and back: bytes, headers and refusals."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from claude_crds.views import Budget
from claude_router.gateway.callers import Caller
from claude_router.gateway.scan import Counted
from claude_router.gateway.teams import Policy
from router.fakes import PATIENCE, Exchange, streams
from router.gateway.harness import (
    AUTH,
    JSON,
    MESSAGES,
    REAL_KEY,
    TOKEN,
    body,
    delta,
    error_of,
    finish,
    gateway,
    request,
    start,
    until,
)

pytestmark = pytest.mark.asyncio

RESTRICTED = {"red": Policy(models=("sonnet",))}
ANSWER = start() + delta("hello") + finish()


# -- passing on ------------------------------------------------------------------------------------------------------


async def test_bytes_pass_unchanged_and_the_real_key_takes_the_place_of_the_workers(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(start(), delta("hel"), delta("lo"), finish())) as running:
        sent = body(metadata={"ümläut": "\u2028"})
        answer = await running.client.post(
            MESSAGES + "?beta=true", content=sent, headers=AUTH | JSON | {
                "x-api-key": TOKEN, "anthropic-beta": "a,b", "anthropic-version": "2023-06-01", "cookie": "c=1",
                "accept-encoding": "gzip, br", "x-goog-api-key": "mine", "x-forwarded-for": "10.0.0.1", "x-app": "cli",
            },
        )  # fmt: skip
        assert answer.status_code == 200
        assert answer.content == start() + delta("hel") + delta("lo") + finish()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        got = running.model.received[0]
        assert got.line == f"POST {MESSAGES}?beta=true HTTP/1.1"
        assert got.body == sent
        assert got.headers["x-api-key"] == REAL_KEY
        assert got.headers["accept-encoding"] == "identity"
        assert (got.headers["anthropic-beta"], got.headers["x-app"]) == ("a,b", "cli")
        assert not {"authorization", "cookie", "x-goog-api-key", "x-forwarded-for"} & got.headers.keys()
        assert TOKEN not in str(got)


async def test_a_header_passes_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        data = body()
        answer, writer = await running.connect("")
        extra = "x-one: gr\u00fcn\r\n".encode() + b"x-two: gr\xfcn\r\n"
        writer.write(request(len(data)).encode().replace(b"host: x\r\n", b"host: x\r\n" + extra) + data)
        assert (await answer.head())[0] == 200
        got = running.model.received[-1].headers
        assert got["x-one"].encode("latin-1").decode() == "gr\u00fcn"
        assert "x-two" not in got


async def test_what_the_model_says_about_itself_comes_back_and_nothing_else(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        told = {**JSON, "request-id": "req_1", "retry-after": "7", "anthropic-ratelimit-requests-remaining": "3",
                "x-should-retry": "true", "set-cookie": "a=b", "anthropic-organization-id": "org", "server": "x",
                "location": "http://elsewhere"}  # fmt: skip
        await exchange.whole(429, told, b'{"type":"error"}')

    async with gateway(tmp_path, script) as running:
        answer = await running.post()
        assert (answer.status_code, answer.content) == (429, b'{"type":"error"}')
        assert {k: v for k, v in answer.headers.items() if k not in ("date", "x-gateway-request-id")} == {
            "content-type": "application/json", "content-length": "16", "request-id": "req_1", "retry-after": "7",
            "anthropic-ratelimit-requests-remaining": "3", "x-should-retry": "true",
        }  # fmt: skip
        row = running.rows()[0]
        assert (row["status"], row["cost"], row["flags"]) == (429, 0.0, "")
        assert row["id"] == answer.headers["x-gateway-request-id"]


async def test_chunks_pass_as_they_come(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(start())
        await gate.wait()
        await exchange.end(finish())

    async with gateway(tmp_path, script) as running:
        data = body()
        answer, _ = await running.connect(request(len(data)) + data.decode())
        assert (await answer.head())[0] == 200
        assert await answer.chunk() == start()
        gate.set()
        assert b"".join(await answer.rest()) == finish()


@pytest.mark.parametrize("model", ["claude-sonnet-5", "claude-opus-5"])
async def test_a_body_goes_on_while_it_comes_but_for_its_last_piece(tmp_path: Path, model: str) -> None:
    came, bell, over = bytearray(), asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            came.extend(data)
            bell.set()
            if came.endswith(b"}"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    data = body(model, text="x" * 1000)
    async with server:
        async with gateway(tmp_path, streams(ANSWER), url=url, teams=RESTRICTED) as running:
            answer, writer = await running.connect(request(len(data)))
            for piece in (data[:300], data[300:600], data[600:900]):
                writer.write(piece)
                await asyncio.sleep(0.02)  # so that each comes in a packet of its own
            async with asyncio.timeout(PATIENCE):
                while data[:300] not in came:
                    bell.clear()
                    await bell.wait()
            assert data[:900] not in came
            writer.write(data[900:])
            status, _ = await answer.head()
            assert status == (200 if model == "claude-sonnet-5" else 403)
            assert came.endswith(data) == (status == 200)
        async with asyncio.timeout(PATIENCE):
            await over.wait()
        assert came.endswith(data) == (status == 200)  # else it was closed in the middle of the request


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_in_many_pieces_arrives_whole(tmp_path: Path, chunked: bool) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        data = body(text="x" * 100_000)
        answer, writer = await running.connect(request("transfer-encoding: chunked" if chunked else len(data)))
        for at in range(0, len(data), 7001):
            piece = data[at : at + 7001]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n" if chunked else b"")
        assert (await answer.head())[0] == 200
        await answer.rest()
        if chunked:
            assert running.model.received[0].headers["transfer-encoding"] == "chunked"
        else:
            assert running.model.received[0].body == data


async def test_tokens_are_counted_and_models_listed_at_no_cost(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(200, JSON, b'{"input_tokens": 5, "usage": {"input_tokens": 9}}')

    async with gateway(tmp_path, script) as running:
        assert (await running.post(path="/v1/messages/count_tokens")).json()["input_tokens"] == 5
        for path in ("/v1/models?limit=2", "/v1/models/claude-opus-5"):
            assert (await running.client.get(path, headers=AUTH)).status_code == 200
        assert [r.line.split()[1] for r in running.model.received] == [
            "/v1/messages/count_tokens", "/v1/models?limit=2", "/v1/models/claude-opus-5",
        ]  # fmt: skip
        assert running.rows() == []


async def test_the_clis_greeting_is_answered_here_and_needs_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        assert (await running.client.head("/")).status_code == 200
        assert (await running.client.get("/")).json() == {"status": "ok"}
        assert running.model.received == []


# -- refusing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [
    {}, {"authorization": "Bearer"}, {"authorization": "Basic abc"}, {"authorization": f"Bearer {TOKEN}x"},
    {"x-api-key": REAL_KEY}, {"x-api-key": "y" * 20_000}, {"authorization": "Bearer \u00fc"},
])  # fmt: skip
async def test_without_a_workers_credential_nothing_passes(tmp_path: Path, headers: dict[str, str]) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        encoded = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
        answer = await running.client.post(MESSAGES, content=body(), headers=encoded)
        assert answer.status_code == 401
        assert error_of(answer)["type"] == "authentication_error"
        assert TOKEN not in answer.text
        assert running.model.received == []
        assert running.rows() == []


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/v1/messages/batches"), ("GET", "/v1/messages"), ("POST", "/v1/files"), ("DELETE", "/v1/models/x"),
    ("GET", "/v1/organizations/usage_report/messages"), ("POST", "/v1/messages/"), ("POST", "//v1/messages"),
    ("POST", "/v1/%6dessages"), ("GET", "/v1/models/../organizations"), ("GET", "/v1/models/%2e%2e"), ("PATCH", "/"),
    ("GET", "/v1/models/a%2Fb"), ("POST", "/v1/complete"),
])  # fmt: skip
async def test_any_other_path_is_not_found(tmp_path: Path, method: str, path: str) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        answer, _ = await running.connect(
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 0\r\n\r\n"
        )
        status, headers = await answer.head()
        assert status == 404
        assert headers["content-type"] == "application/json"
        assert running.model.received == []


@pytest.mark.parametrize(("content", "status"), [
    (body("claude-sonnet-5"), 200),
    (body("claude-opus-5"), 403),
    (body("claude-sonnet-5", tools=[{"type": "advisor", "model": "claude-opus-5"}]), 403),
    (body("claude-sonnet-5", tools=[{"name": "t", "input_schema": {"properties": {"model": {}}}}]), 200),
    (b'{"model": "claude-sonnet-5", "model": "claude-opus-5"}', 400),
    (b'{"model": "claude-opus-5", "model": "claude-sonnet-5"}', 400),
    (b'{"model": "claude-opus-5", "mod\\u0065l": "claude-sonnet-5"}', 400),
    (b'{"model": "claude-sonnet-5", "tools": [{"model": "claude-opus-5"}], "tools": []}', 400),
    (b'{"model": "claude-sonnet-5", "tools": [{"model": "claude-opus-5", "model": "claude-sonnet-5"}]}', 400),
    (b"{}", 400), (b"", 400), (b"[]", 400), (b'{"model": 1}', 400), (b"\xff", 400), (b'{"model": "sonnet"', 400),
    ('{"model": "claude-sonnet-5"}'.encode("utf-16"), 400), (b'{"model": "sonnet' + b"x" * 300 + b'"}', 400),
    (b'{"model": "sonnet", "model ": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
])  # fmt: skip
@pytest.mark.parametrize("split", [False, True])
async def test_a_team_gets_its_models_only(tmp_path: Path, content: bytes, status: int, split: bool) -> None:
    async with gateway(tmp_path, streams(ANSWER), teams=RESTRICTED) as running:
        answer, writer = await running.connect(request(len(content)))
        half = len(content) // 2 if split else 0
        writer.write(content[:half])
        await asyncio.sleep(0.02 if split else 0)
        writer.write(content[half:])
        assert (await answer.head())[0] == status
        assert [r.body for r in running.model.received] == ([content] if status == 200 else [])
        assert len(running.rows()) == (status == 200)


async def test_a_compressed_body_hides_its_model(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        assert (await running.post(content_encoding="gzip")).status_code == 400
        assert running.model.received == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused(tmp_path: Path, announced: bool) -> None:
    async with gateway(tmp_path, streams(ANSWER), max_body_bytes=2000) as running:
        data = body(text="x" * 3000)
        head = len(data) if announced else "transfer-encoding: chunked"
        answer, writer = await running.connect(request(head))
        writer.write(data if announced else b"%x\r\n%b\r\n" % (len(data), data))
        status, headers = await answer.head()
        assert (status, headers["connection"]) == (413, "close")
        assert running.model.received == []


async def test_a_worker_has_so_many_requests_at_a_time_and_no_more(tmp_path: Path) -> None:
    let_go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await let_go.wait()
        await exchange.whole(200, JSON, b"{}")

    async with gateway(tmp_path, script, most_at_a_time=2) as running:
        held = [asyncio.create_task(running.post()) for _ in range(2)]
        await until(lambda: len(running.model.received) == 2)
        refused = await running.post()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert error_of(refused)["type"] == "rate_limit_error"
        let_go.set()
        assert [(await one).status_code for one in held] == [200, 200]
        assert (await running.post()).status_code == 200
        assert len(running.model.received) == 3


async def test_a_session_whose_team_was_deleted_is_refused(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(ANSWER), caller=Caller("conv-a", "gone")) as running:
        answer = await running.post()
        assert (answer.status_code, error_of(answer)["code"]) == (403, "team_not_found")
        assert running.model.received == []


async def test_the_ceiling_stops_even_a_running_turn(tmp_path: Path) -> None:
    budget = {"red": Policy(budget=Budget(usd=1.0, period="day"))}
    async with gateway(tmp_path, streams(ANSWER), teams=budget, ceiling=150) as running:
        assert (await running.post()).status_code == 200
        running.spending.add("red", running.rows()[0]["began"], Counted(), 1.4)
        assert (await running.post()).status_code == 200
        running.spending.add("red", running.rows()[0]["began"], Counted(), 0.1)
        answer = await running.post()
        assert answer.status_code == 429
        assert error_of(answer)["code"] == "budget_exceeded"
        assert 0 < int(answer.headers["retry-after"]) <= 86_400
        assert answer.headers["x-should-retry"] == "false"
        assert len(running.model.received) == 2
