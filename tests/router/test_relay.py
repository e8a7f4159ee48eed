"""From the client to a worker and back, byte for byte, through real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import socket
from collections.abc import Iterator

import pytest

from router.fakes import DONE, PATIENCE, TOKEN, Exchange, FakeSessions, FakeWorker, frame, refuses, streams
from router.harness import body, endpoint, error_of

pytestmark = pytest.mark.asyncio


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where connections are refused: bound, so that nobody else takes it, but not listening."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


async def test_what_the_worker_gets() -> None:
    content = (
        b' {"model":"claude-code-opus:talk/\xc3\xbc","messages":[{"role":"user","content":"h\xc3\xa9"}],"stream":true} '
    )
    async with FakeWorker(streams(frame("a"), DONE)) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat(
            content,
            authorization="Bearer secret-of-the-client",
            cookie="a=b",
            x_api_key="another-secret",
            x_claude_model="forged",
            x_claude_request="forged",
            x_claude_conversation="forged",
            x_claude_resent="1",
            x_claude_history="last",
            idempotency_key="once",
            x_claude_client_session="1",
            x_parent_session_id="ses_parent",
            accept_encoding="gzip",
        )
        assert answer.status_code == 200
    (got,) = worker.received
    assert got.line == "POST /v1/chat/completions HTTP/1.1"
    assert got.body == content
    del got.headers["host"]
    assert re.fullmatch("[0-9a-f]{32}", got.headers.pop("x-claude-request"))
    assert got.headers == {
        "authorization": f"Bearer {TOKEN}",
        "content-type": "application/json",
        "content-length": str(len(content)),
        "x-claude-model": "claude-code-opus",
        "x-claude-conversation": "talk%2F%C3%BC",
        "x-parent-session-id": "ses_parent",
        "x-claude-history": "last",
        "idempotency-key": "once",
    }
    ((key, _),) = router.sessions.acquired
    assert (key.tenant, key.id) == ("default", "talk/ü")


async def test_a_session_header_is_marked_as_the_clients_own() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        await router.chat(x_session_id="ses_1")
        await router.chat(x_session_id="ses_1", x_conversation_id="chosen")
    assert [r.headers.get("x-claude-client-session") for r in worker.received] == ["1", None]


async def test_status_and_headers_come_back_without_the_hops_own() -> None:
    async def script(exchange: Exchange) -> None:
        headers = {
            "Content-Type": "application/json", "Retry-After": "7", "X-Should-Retry": "false", "X-Claude-Turns": "3",
            "X-Claude-Tip": "f" * 32,
            "X-Conversation-ID": "not-the-workers-business", "Connection": "close", "Keep-Alive": "timeout=5",
            "Set-Cookie": "a=b", "Server": "worker", "Proxy-Authenticate": "Basic",
        }  # fmt: skip
        await exchange.whole(429, headers, b'{"error": {"message": "slow down"}}')
        exchange.cut()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat(x_conversation_id="mine")
    assert answer.status_code == 429
    assert answer.content == b'{"error": {"message": "slow down"}}'
    headers = dict(answer.headers)
    del headers["date"], headers["server"]
    assert headers == {
        "content-type": "application/json", "retry-after": "7", "x-should-retry": "false", "x-claude-turns": "3",
        "x-conversation-id": "mine", "content-length": str(len(answer.content)),
    }  # fmt: skip


async def test_each_chunk_leaves_as_it_came_before_the_next_one_exists() -> None:
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        while chunk := await said.get():
            await exchange.chunk(chunk)
        await exchange.end(DONE)

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer, writer = await router.connect(body(stream=True))
        pieces = [
            frame("one"),
            b": keepalive\n\n",
            b"data: cut in",
            b" two\n",
            b"\n",
            "data: \u2028é".encode()[:-1],
            b"\xa9\n\n",
        ]
        for piece in pieces:
            said.put_nowait(piece)
            if piece is pieces[0]:
                status, headers = await answer.head()
                assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
                assert headers["cache-control"] == "no-cache"
            assert await answer.chunk() == piece
        said.put_nowait(b"")
        assert await answer.rest() == [DONE]
        writer.close()


async def test_megabytes_arrive_unchanged() -> None:
    rng = random.Random(7)
    chunks = [rng.randbytes(rng.choice((1, 17, 300, 70_000, 200_000))) for _ in range(200)] + [DONE]

    async with FakeWorker(streams(*chunks)) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat(body(stream=True))
    assert len(answer.content) == sum(map(len, chunks))
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(b"".join(chunks)).digest()


async def test_a_large_body_reaches_the_worker_unchanged() -> None:
    content = json.dumps(body(messages=[{"role": "user", "content": "ü" * 3_000_000}])).encode()
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        assert (await router.chat(content)).status_code == 200
    assert worker.received[0].body == content


async def test_connections_to_a_worker_are_reused() -> None:
    async with FakeWorker(streams(frame("a"), DONE)) as worker, endpoint(worker.endpoint) as router:
        for _ in range(3):
            assert (await router.chat()).content == frame("a") + DONE
    assert (worker.connections, len(worker.received)) == (1, 3)


async def test_a_client_that_leaves_closes_the_workers_connection_at_once() -> None:
    closed_after: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    left_at = 0.0

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(frame("a"))
        await exchange.left()
        closed_after.set_result(asyncio.get_running_loop().time() - left_at)

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer, writer = await router.connect(body(stream=True))
        await answer.head()
        assert await answer.chunk() == frame("a")
        left_at = asyncio.get_running_loop().time()
        writer.close()
        assert await asyncio.wait_for(closed_after, PATIENCE) < 1.0
        assert await router.app.state.running.idle(PATIENCE)
    assert router.sessions.given_back == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_first_byte(stream: bool) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        asked.set()
        await exchange.left()
        closed.set()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        _, writer = await router.connect(body(stream=stream))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        writer.close()
        await asyncio.wait_for(closed.wait(), 1.0)


async def test_a_client_that_leaves_while_it_waits_for_a_worker() -> None:
    sessions = FakeSessions()
    sessions.gate.clear()
    async with endpoint("http://unused", sessions=sessions) as router:
        _, writer = await router.connect(body(stream=True))
        await asyncio.wait_for(sessions.waiting.wait(), PATIENCE)
        writer.close()
        assert await router.app.state.running.idle(1.0)
    assert sessions.cancelled == 1


async def test_a_turn_that_was_not_started_is_sent_to_the_next_worker() -> None:
    async with (
        FakeWorker(refuses()) as old,
        FakeWorker(streams(frame("b"), DONE)) as new,
        endpoint(old.endpoint, new.endpoint) as router,
    ):
        answer = await router.chat(body(stream=True), x_conversation_id="c")
    assert answer.content == frame("b") + DONE
    assert old.received[0].body == new.received[0].body
    assert [(key.id, lease.endpoint) for key, lease in router.sessions.given_back] == [("c", old.endpoint)]
    first, second = router.sessions.acquired
    assert first == second, "the deadline is that of the request, not of the attempt"


async def test_a_refused_connection_is_tried_elsewhere(nobody: str) -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(nobody, worker.endpoint) as router:
        assert (await router.chat()).status_code == 200
    assert [lease.endpoint for _, lease in router.sessions.given_back] == [nobody]


async def test_a_worker_that_keeps_refusing_has_the_last_word_at_the_deadline() -> None:
    async with (
        FakeWorker(refuses("worker_starting_failed")) as worker,
        endpoint(worker.endpoint, queue_timeout=0.12) as router,
    ):
        answer = await router.chat()
    assert answer.status_code == 503
    assert "x-claude-turn" not in answer.headers
    assert error_of(answer)["code"] == "worker_starting_failed"
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
    assert 2 <= len(worker.received) <= 3, "with a pause in between"


async def test_a_worker_that_never_accepts_a_connection(nobody: str) -> None:
    async with endpoint(nobody, queue_timeout=0.12) as router:
        answer = await router.chat()
    assert answer.status_code == 502
    assert error_of(answer)["code"] == "session_failed"
