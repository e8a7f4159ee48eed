"""Messages and files of a conversation, through the router and the file endpoints of a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from claude_router.sessions import PoolExhausted, SessionFailed, Unreachable
from router.fakes import PATIENCE, TOKEN, Exchange, FakeSessions, FakeWorker
from router.harness import endpoint, error_of
from router.volumes import answers, served
from worker.carriers import Carrier

pytestmark = pytest.mark.asyncio

BINARY = bytes(range(256)) * 4000


def known(*names: str) -> FakeSessions:
    sessions = FakeSessions()
    for name in names:
        sessions.add(name)
    return sessions


async def test_files_there_and_back(tmp_path: Path) -> None:
    carrier = Carrier(tmp_path)
    async with served(carrier) as worker, endpoint(worker, sessions=known("a/b")) as router:
        path = "/conversations/a%2Fb/files/deep/%C3%BC%20%25.bin"
        assert (await router.client.put(path, content=BINARY)).status_code == 201
        assert (await router.client.put(path, content=BINARY)).status_code == 200
        assert (carrier.workspace / "deep" / "ü %.bin").read_bytes() == BINARY
        answer = await router.client.get(path)
        assert answer.content == BINARY
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert answer.headers["content-length"] == str(len(BINARY))
        assert "attachment" in answer.headers["content-disposition"]
        listed = (await router.client.get("/conversations/a%2Fb/files?list=true&under=deep&limit=1")).json()
        assert [entry["path"] for entry in listed["data"]] == ["deep/ü %.bin"]
        archive = await router.client.get("/conversations/a/b/files")
        assert archive.headers["content-type"] == "application/x-tar"
        assert BINARY in archive.content
    assert {key.id for key, _ in router.sessions.acquired} == {"a/b"}
    assert router.app.state.running.count == 0


@pytest.mark.parametrize("path", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e/x", "a/%2E%2E/b", "%2Fetc/passwd", "a%00"])
async def test_no_path_is_made_right_on_its_way(tmp_path: Path, path: str) -> None:
    async with served(Carrier(tmp_path)) as worker, endpoint(worker, sessions=known("c")) as router:
        url = httpx.URL(router.client.base_url).copy_with(raw_path=f"/conversations/c/files/{path}".encode())
        for answer in (await router.client.get(url), await router.client.put(url, content=b"x")):
            assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_path")


async def test_the_workers_errors_are_the_clients() -> None:
    error = {"message": "no", "type": "t", "param": "path", "code": "file_not_found"}
    async with (
        FakeWorker(answers(404, {"error": error})) as worker,
        endpoint(worker.endpoint, sessions=known("c")) as router,
    ):
        answer = await router.client.get("/conversations/c/files/x")
    assert answer.status_code == 404
    assert error_of(answer) == error
    assert worker.received[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("path", ["messages", "files", "files?list=true", "files/x", "fork"])
async def test_an_unknown_conversation_is_not_begun_by_a_look_at_it(path: str) -> None:
    async with endpoint(sessions=known("c")) as router:
        ask = router.client.post if path == "fork" else router.client.get
        answer = await ask(f"/conversations/unknown/{path}")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "conversation_not_found")
    assert router.sessions.acquired == []


async def test_a_key_is_needed() -> None:
    async with endpoint(sessions=known("c"), api_keys=("key-of-somebody",)) as router:
        statuses = [
            (await router.client.get("/conversations/c/messages")).status_code,
            (await router.client.get("/conversations/c/files")).status_code,
            (await router.client.get("/conversations/c/files/x")).status_code,
            (await router.client.put("/conversations/c/files/x")).status_code,
            (await router.client.post("/conversations/c/fork")).status_code,
        ]
    assert statuses == [401] * 5


async def test_messages() -> None:
    lines = [
        {"role": "user", "content": "hello", "uuid": "u1"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi."}], "uuid": "a1", "message_id": "m1"},
    ]
    async with (
        FakeWorker(answers(200, {"claude_session_id": "s", "messages": lines})) as worker,
        endpoint(worker.endpoint, sessions=known("c")) as router,
    ):
        answer = await router.client.get("/conversations/c/messages")
    assert worker.received[0].line == "GET /transcript HTTP/1.1"
    assert answer.json() == {
        "object": "list",
        "data": [
            {"id": "u1", "role": "user", "content": "hello"},
            {"id": "a1", "role": "assistant", "content": "Hi."},
        ],
    }


async def test_a_transcript_that_is_none() -> None:
    async with FakeWorker(answers(200, b"[]")) as worker, endpoint(worker.endpoint, sessions=known("c")) as router:
        answer = await router.client.get("/conversations/c/messages")
    assert (answer.status_code, error_of(answer)["code"]) == (502, "worker_bad_answer")


async def test_a_file_that_is_too_large_reaches_no_worker(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 1000

    carrier = Carrier(tmp_path)
    async with served(carrier) as worker, endpoint(worker, sessions=known("c"), max_body_bytes=2000) as router:
        announced = await router.client.put("/conversations/c/files/x", content=b"x" * 2001)
        streamed = await router.client.put("/conversations/c/files/x", content=pieces())
    for answer in (announced, streamed):
        assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
    assert list(carrier.workspace.iterdir()) == []


async def test_a_worker_that_refuses_is_replaced(tmp_path: Path) -> None:
    error = {"error": {"message": "draining", "type": "server_error", "param": None, "code": "worker_draining"}}
    refusing = answers(503, error, **{"x-claude-turn": "not-started"})
    async with (
        FakeWorker(refusing) as first,
        served(Carrier(tmp_path)) as second,
        endpoint(first.endpoint, second, sessions=known("c")) as router,
    ):
        answer = await router.client.get("/conversations/c/files?list=true")
    assert answer.status_code == 200
    assert len(router.sessions.given_back) == 1


async def test_no_worker_ever_accepts() -> None:
    # Bound, so that nobody else takes the port, but not listening.
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        async with endpoint(nobody, sessions=known("c"), queue_timeout=0.1) as router:
            answer = await router.client.get("/conversations/c/files")
    assert (answer.status_code, error_of(answer)["code"]) == (502, "session_failed")
    assert router.app.state.running.count == 0


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Unreachable("nobody is there"), 503, "cluster_unreachable"),
        (PoolExhausted("all are busy"), 503, "pool_exhausted"),
        (SessionFailed("no"), 502, "session_failed"),
    ],
)
async def test_no_worker_can_be_had(failure: Exception, status: int, code: str) -> None:
    async with endpoint(failure, sessions=known("c")) as router:
        answer = await router.client.get("/conversations/c/messages")
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


async def test_a_worker_that_is_lost_meanwhile() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.cut()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint, sessions=known("c")) as router:
        answer = await router.client.get("/conversations/c/messages")
    assert (answer.status_code, error_of(answer)["code"]) == (502, "worker_lost")


async def test_a_download_that_breaks_off_is_seen_to_be_broken() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head(headers={"content-type": "application/x-tar"})
        await exchange.chunk(b"half")
        exchange.cut()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint, sessions=known("c")) as router:
        with pytest.raises(httpx.RemoteProtocolError):
            await router.client.get("/conversations/c/files")
        assert router.app.state.running.count == 0


async def test_a_client_that_leaves_lets_the_worker_go() -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head(headers={"content-type": "application/x-tar"})
        with contextlib.suppress(ConnectionError):
            while True:
                await exchange.chunk(b"x" * 100_000)
        left.set()

    async with (
        FakeWorker(script) as worker,
        endpoint(worker.endpoint, sessions=known("c")) as router,
        router.client.stream("GET", "/conversations/c/files") as answer,
    ):
        async for _ in answer.aiter_raw():
            break
        async with asyncio.timeout(PATIENCE):
            await left.wait()


async def test_a_server_that_ends_begins_nothing() -> None:
    async with endpoint(sessions=known("c")) as router:
        router.app.state.running.drain()
        answer = await router.client.get("/conversations/c/files")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "server_shutting_down")


async def test_the_document_has_them_all() -> None:
    async with endpoint() as router:
        paths = (await router.client.get("/openapi.json")).json()["paths"]
    named = "/conversations/{conversation_id}"
    assert {path: sorted(paths[named + path]) for path in ("/messages", "/fork", "/files", "/files/{path}")} == {
        "/messages": ["get"], "/fork": ["post"], "/files": ["get"], "/files/{path}": ["get", "put"],
    }  # fmt: skip
