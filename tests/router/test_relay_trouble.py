"""Workers that fail or keep the client waiting: it is always told, never by silence."""

from __future__ import annotations

import asyncio

import pytest

from claude_router.sessions import PoolExhausted, SessionFailed, Unreachable
from router.fakes import DONE, PATIENCE, Exchange, FakeSessions, FakeWorker, frame, streams
from router.harness import body, endpoint, error_frames, error_of

pytestmark = pytest.mark.asyncio


async def cut(exchange: Exchange) -> None:
    exchange.cut()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_worker_lost_before_its_answer_is_asked_again_whether_it_has_run(stream: bool) -> None:
    async with (
        FakeWorker(cut) as lost,
        FakeWorker(streams(frame("a"), DONE)) as found,
        endpoint(lost.endpoint, lost.endpoint, found.endpoint) as router,
    ):
        answer = await router.chat(body(stream=stream), x_conversation_id="c")
        metrics = (await router.client.get("/metrics")).text
    assert answer.content == frame("a") + DONE
    asked = [r.headers for r in (*lost.received, *found.received)]
    assert [h.get("x-claude-resent") for h in asked] == [None, "1", "1"]
    assert len({h["x-claude-request"] for h in asked}) == 1
    assert [lease.endpoint for _, lease in router.sessions.given_back] == [lost.endpoint] * 2
    assert 'claude_chat_resent_requests_total{reason="connection_lost"} 2.0' in metrics
    assert "claude_chat_workers_lost_total 0.0" in metrics


async def test_a_worker_that_was_lost_gets_as_long_as_one_that_was_not() -> None:
    async with (
        FakeWorker(cut) as lost,
        FakeWorker(streams(frame("a"), DONE)) as found,
        endpoint(lost.endpoint, found.endpoint, queue_timeout=5.0) as router,
    ):
        await router.chat()
    (_, first), (_, second) = router.sessions.acquired
    assert second > first


@pytest.mark.parametrize("after", [PoolExhausted("all busy"), SessionFailed("no"), Unreachable("nobody is there")])
async def test_what_comes_after_a_loss_does_not_invite_to_repeat_what_may_have_run(after: Exception) -> None:
    async with FakeWorker(cut) as worker, endpoint(worker.endpoint, after) as router:
        answer = await router.chat()
    assert error_of(answer)["code"] == "worker_lost"
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("stream", [True, False])
async def test_a_worker_that_is_lost_again_and_again(stream: bool) -> None:
    async with FakeWorker(cut) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat(body(stream=stream), x_conversation_id="c")
        metrics = (await router.client.get("/metrics")).text
    assert answer.status_code == 502
    error = error_of(answer)
    assert (error["type"], error["code"], error["param"]) == ("server_error", "worker_lost", None)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-conversation-id"] == "c"
    assert len(worker.received) == 4
    assert "claude_chat_workers_lost_total 1.0" in metrics


@pytest.mark.parametrize("sent", [frame("a"), b"data: {half a fra", b""])
async def test_a_worker_lost_in_its_stream_is_told_in_the_stream(sent: bytes) -> None:
    relayed = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        if sent:
            await exchange.chunk(sent)
        await relayed.wait()
        exchange.cut()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer, writer = await router.connect(body(stream=True))
        assert (await answer.head())[0] == 200
        if sent:
            assert await answer.chunk() == sent
        relayed.set()
        end = b"".join(await answer.rest())
        writer.close()
    assert error_frames(sent + end)["code"] == "worker_lost"
    assert b"finish_reason" not in end
    assert len(worker.received) == 1


async def test_a_stream_that_ends_without_its_end_is_a_lost_worker() -> None:
    async with FakeWorker(streams(frame("a"), frame("b"))) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat(body(stream=True))
    assert answer.content.startswith(frame("a") + frame("b"))
    assert error_frames(answer.content)["code"] == "worker_lost"


async def test_a_worker_lost_after_its_end_does_no_harm() -> None:
    relayed = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(frame("a") + DONE[:5])
        await exchange.chunk(DONE[5:])
        await relayed.wait()
        exchange.cut()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer, writer = await router.connect(body(stream=True))
        await answer.head()
        got = b""
        while not got.endswith(DONE):
            got += await answer.chunk()
        relayed.set()
        assert await answer.rest() == []
        writer.close()
    assert got == frame("a") + DONE


async def test_a_worker_lost_in_a_json_answer_is_still_a_502() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "application/json"}, length=100)
        await exchange.raw(b'{"id": "chatcmpl')
        exchange.cut()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer = await router.chat()
    assert answer.status_code == 502
    assert error_of(answer)["code"] == "worker_lost"


async def test_a_stream_is_kept_alive_while_it_waits_for_a_worker() -> None:
    sessions = FakeSessions()
    sessions.gate.clear()
    async with (
        FakeWorker(streams(frame("a"), DONE)) as worker,
        endpoint(worker.endpoint, sessions=sessions, keepalive=0.01) as router,
    ):
        answer, writer = await router.connect(body(stream=True), "x-conversation-id: c\r\n")
        status, headers = await answer.head()
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["x-conversation-id"] == "c"
        assert [await answer.chunk() for _ in range(3)] == [b": keepalive\n\n"] * 3
        sessions.gate.set()
        rest = b"".join(await answer.rest())
        writer.close()
        text = (await router.client.get("/metrics")).text
    assert rest.replace(b": keepalive\n\n", b"") == frame("a") + DONE
    sent = next(line for line in text.splitlines() if line.startswith("claude_chat_keepalives_total"))
    assert float(sent.split()[1]) >= 3


async def test_a_json_request_waits_without_keepalives() -> None:
    sessions = FakeSessions()
    sessions.gate.clear()
    async with (
        FakeWorker(streams(frame("a"), DONE)) as worker,
        endpoint(worker.endpoint, sessions=sessions, keepalive=0.01) as router,
    ):
        asked = asyncio.create_task(router.chat())
        await asyncio.wait_for(sessions.waiting.wait(), PATIENCE)
        elapsed = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, elapsed.set)
        await elapsed.wait()
        sessions.gate.set()
        assert b"keepalive" not in (await asked).content


ERRORS = [
    (PoolExhausted("all busy"), 503, "pool_exhausted"),
    (Unreachable("nobody is there"), 503, "cluster_unreachable"),
    (SessionFailed("the CLI cannot start: no such file"), 502, "session_failed"),
    (RuntimeError("a bug with a secret in it"), 500, "internal_error"),
]


@pytest.mark.parametrize(("raised", "status", "code"), ERRORS)
async def test_no_worker(raised: Exception, status: int, code: str) -> None:
    async with endpoint(raised) as router:
        answer = await router.chat(x_conversation_id="c")
    assert answer.status_code == status
    error = error_of(answer)
    assert (error["type"], error["code"], error["param"]) == ("server_error", code, None)
    assert answer.headers["x-conversation-id"] == "c"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "secret" not in answer.text
    if isinstance(raised, SessionFailed):
        assert "no such file" in error["message"]


@pytest.mark.parametrize(("raised", "code"), [(raised, code) for raised, _, code in ERRORS])
async def test_no_worker_after_keepalives(raised: Exception, code: str) -> None:
    sessions = FakeSessions()
    sessions.gate.clear()
    async with endpoint(raised, sessions=sessions, keepalive=0.01) as router:
        answer, writer = await router.connect(body(stream=True))
        assert (await answer.head())[0] == 200
        assert await answer.chunk() == b": keepalive\n\n"
        sessions.gate.set()
        end = b"".join(await answer.rest())
        writer.close()
    assert error_frames(end)["code"] == code
    assert b"secret" not in end


@pytest.mark.parametrize(
    ("status", "headers", "data", "code"),
    [
        (429, {"content-type": "application/json"},
         b'{"error": {"message": "slow\\ndown", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}',
         "rate_limit_exceeded"),
        (500, {"content-type": "text/plain"}, b"Internal\n\nServer Error", "worker_bad_answer"),
        (200, {"content-type": "application/json"}, b'{"id": "x"}', "worker_bad_answer"),
    ],
)  # fmt: skip
async def test_a_workers_error_after_keepalives_is_told_in_the_stream(
    status: int, headers: dict[str, str], data: bytes, code: str
) -> None:
    sessions = FakeSessions()
    sessions.gate.clear()

    async def script(exchange: Exchange) -> None:
        await exchange.whole(status, headers, data)

    async with FakeWorker(script) as worker, endpoint(worker.endpoint, sessions=sessions, keepalive=0.01) as router:
        answer, writer = await router.connect(body(stream=True))
        await answer.head()
        assert await answer.chunk() == b": keepalive\n\n"
        sessions.gate.set()
        end = b"".join(await answer.rest())
        writer.close()
    assert error_frames(end)["code"] == code


async def test_requests_that_wait_for_one_conversation_are_bounded() -> None:
    sessions = FakeSessions()
    sessions.gate.clear()
    async with (
        FakeWorker(streams(DONE)) as worker,
        endpoint(worker.endpoint, sessions=sessions, max_queue=1) as router,
    ):
        waiting = []
        for _ in range(2):
            sessions.waiting.clear()
            waiting.append(asyncio.create_task(router.chat(x_conversation_id="c")))
            await asyncio.wait_for(sessions.waiting.wait(), PATIENCE)
        refused = await router.chat(x_conversation_id="c")
        sessions.waiting.clear()
        other = asyncio.create_task(router.chat(x_conversation_id="another"))
        await asyncio.wait_for(sessions.waiting.wait(), PATIENCE)
        sessions.gate.set()
        answers = await asyncio.gather(*waiting, other)
        again = await router.chat(x_conversation_id="c")
    assert refused.status_code == 429
    assert error_of(refused)["code"] == "conversation_queue_full"
    assert refused.headers["retry-after"] == "1"
    assert [a.status_code for a in (*answers, again)] == [200] * 4


async def test_requests_one_after_another_do_not_count_as_waiting() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint, max_queue=0) as router:
        answers = [await router.chat(x_conversation_id="c") for _ in range(3)]
    assert [a.status_code for a in answers] == [200] * 3


async def test_the_end_of_the_servers_grace_ends_a_stream_with_an_error() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(frame("a"))
        await exchange.left()

    async with FakeWorker(script) as worker, endpoint(worker.endpoint) as router:
        answer, writer = await router.connect(body(stream=True))
        await answer.head()
        assert await answer.chunk() == frame("a")
        for task in router.server.server_state.tasks:  # what uvicorn does when its own grace is over
            task.cancel()
        end = b"".join(await answer.rest())
        writer.close()
    assert error_frames(end)["code"] == "server_shutting_down"
