"""From a request to a worker's lease, by the protocol of asks."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from claude_router.sessions import Lease, PoolExhausted, SessionFailed
from crds.fake_api import FakeApi, status
from router.cluster.harness import KIND, World, key, operated, router, session, token, world

pytestmark = pytest.mark.asyncio


async def test_a_ready_session_is_lent_without_any_request() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r:
            before = len(fake.requests)
            assert await r.acquire("a") == Lease(key("a").name, "http://pod-1:8080", token("pod-1"))
            assert len(fake.requests) == before


async def test_many_requests_at_two_routers_make_one_session_and_wake_at_once() -> None:
    async with FakeApi() as fake, router(fake) as one, router(fake) as two:
        w = World(fake)
        tasks = [r.waits("new") for r in (one, two) for _ in range(20)]
        await w.created("new")
        await w.until(lambda: len(w.sent("POST")) == 2)
        assert w.object("new")["metadata"]["generation"] == 1
        w.ready("new")
        leases = await asyncio.gather(*tasks)
        assert {lease.token for lease in leases} == {token("pod-1")}
        assert w.sent("PATCH") == []
        spec = w.object("new")["spec"]
        assert spec.pop("lastRequestTime")
        assert spec == {
            "conversationID": "new", "tenant": "default", "poolRef": {"name": "default"}, "desiredState": "Running",
        }  # fmt: skip


async def test_many_requests_of_a_suspended_session_are_one_ask_a_router() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("old", "Suspended"))
        async with router(fake) as one, router(fake) as two:
            tasks = [r.waits("old") for r in (one, two) for _ in range(20)]
            await w.asked("old", 2)
            w.write("old", "Starting")
            await one.sees("old", "Starting")
            await two.sees("old", "Starting")
            w.ready("old", "pod-7")
            leases = await asyncio.gather(*tasks)
        assert {lease.token for lease in leases} == {token("pod-7")}
        assert len(w.sent("PATCH")) <= 2
        assert w.sent("POST") == []


async def test_a_persons_suspended_is_overruled_by_the_next_request() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Suspended", desiredState="Suspended"))
        async with router(fake) as r, operated(w):
            await r.acquire("a")
        assert w.object("a")["spec"]["desiredState"] == "Running"


async def test_a_session_of_another_pool_stays_there() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Suspended", poolRef={"name": "other"}))
        async with router(fake) as r, operated(w):
            await r.acquire("a")
        assert w.object("a")["spec"]["poolRef"] == {"name": "other"}


async def test_a_waiting_request_is_renewed_until_it_leaves() -> None:
    async with world(renew_seconds=0.03) as (w, r):
        waiting = r.waits("a")
        await w.created("a")
        w.write("a", "Queued", message="number 3 in the line")
        await w.until(lambda: len(w.sent("PATCH")) >= 3)
        assert w.object("a")["metadata"]["generation"] >= 4
        w.fake.put(KIND, {**w.object("a"), "spec": {**w.object("a")["spec"], "desiredState": "Suspended"}})
        sent = len(w.sent("PATCH"))
        await w.until(lambda: len(w.sent("PATCH")) >= sent + 2)
        assert w.object("a")["spec"]["desiredState"] == "Suspended", "a renewal leaves it alone"
        waiting.cancel()
        await asyncio.wait([waiting])
        assert r.sessions._pursuits == {}
        assert r.sessions._cluster.renew_seconds == 0.03
        sent = len(w.sent("PATCH"))
        await asyncio.sleep(0.1)  # three renewals' time, in which none may come
        assert len(w.sent("PATCH")) <= sent + 1


async def test_the_ask_of_a_router_that_is_gone_is_renewed_before_it_lapses() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        stamp = "2026-01-31T12:00:00Z"
        w.add(session("a", "Queued", lastRequestTime=stamp), session("b", "Queued", lastRequestTime=stamp))
        async with router(fake, now=lambda: 1769860800.0 + 20) as r:  # 20 s after the stamp
            waiting = r.waits("a")
            await w.asked("a", 2)
            w.ready("a")
            await waiting
        async with router(fake, now=lambda: 1769860800.0 + 2) as r:
            waiting = r.waits("b")
            await asyncio.sleep(0.05)
            w.ready("b")
            await waiting
        assert len(w.sent("PATCH")) == 1


async def test_the_deadline_is_for_room_in_the_pool() -> None:
    async with world() as (w, r):
        queued = r.waits("a", 0.1)
        await w.created("a")
        w.write("a", "Queued", message="number 3 in the line for a worker")
        with pytest.raises(PoolExhausted, match="number 3 in the line") as raised:
            await queued
        assert "ClaudePool default" in raised.value.advice
        starting = r.waits("b", 0.1)
        await w.created("b")
        w.write("b", "Starting")
        await r.sees("b", "Starting")
        await asyncio.sleep(0.15)  # past the deadline
        w.ready("b")
        assert (await starting).token == token("pod-1")


async def test_a_worker_that_does_not_come_up_is_not_awaited_for_ever() -> None:
    async with world() as (w, r):
        starting = r.waits("a", 0.05)
        await w.created("a")
        w.write("a", "Starting", message="its image is being pulled")
        with pytest.raises(PoolExhausted, match=r"still on the way \(its image is being pulled\)"):
            await starting


async def test_an_operator_that_does_not_answer() -> None:
    async with world() as (_, r):
        with pytest.raises(PoolExhausted, match="the operator has not answered"):
            await r.acquire("a", 0.2)


async def test_failed_is_believed_only_when_it_answers_this_ask() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add({**session("a", "Failed"), "status": {"phase": "Failed", "observedGeneration": 1, "message": "old"}})
        async with router(fake) as r:
            waiting = r.waits("a")
            await w.asked("a", 2)
            # Written before the operator saw the ask.
            w.fake.put(KIND, {**w.object("a"), "status": {**w.object("a")["status"], "restarts": 1}})
            await r.knows("a", lambda s: s.status.restarts == 1)
            assert not waiting.done()
            w.write("a", "Failed", message="the image cannot be pulled")
            with pytest.raises(SessionFailed, match="the image cannot be pulled"):
                await waiting
            again = r.waits("a")
            await w.asked("a", 3)
            w.ready("a")
            await again


async def test_a_session_that_is_being_deleted_is_begun_anew_when_it_is_gone() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r:
            uid = w.object("a")["metadata"]["uid"]
            w.leave("a")
            await r.knows("a", lambda s: s.leaving)
            waiting = r.waits("a")
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert w.sent("POST") == w.sent("PATCH") == []
            fake.remove(KIND, key("a").name)
            await w.created("a")
            assert w.object("a")["metadata"]["uid"] != uid
            w.ready("a", "pod-2")
            assert (await waiting).token == token("pod-2")


async def test_one_that_was_deleted_and_begun_anew_under_its_name() -> None:
    """The ask was made of the one before: of this one it is not known, and its Failed is no answer."""
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Suspended"))
        async with router(fake) as r:
            waiting = r.waits("a")
            await w.asked("a", 2)
            fake.hang()
            fake.remove(KIND, key("a").name)
            w.add({**session("a"), "status": {"phase": "Failed", "observedGeneration": 1, "message": "other"}})
            fake.compact()
            fake.cut()
            await w.asked("a", 2)
            w.ready("a", "pod-2")
            assert (await waiting).token == token("pod-2")


async def test_a_watch_that_expired_is_made_good_by_a_list() -> None:
    async with world() as (w, r):
        waiting = r.waits("a")
        await w.created("a")
        w.fake.hang()
        w.ready("a")
        w.fake.compact()
        w.fake.cut()
        assert (await waiting).token == token("pod-1")


async def test_another_router_was_first_and_the_watch_lags() -> None:
    async with world() as (w, r):
        w.fake.hang()
        w.add(session("a", "Ready", pod="pod-4"))
        assert (await r.acquire("a")).token == token("pod-4")


# -- an API server with problems


async def test_without_the_api_server_ready_sessions_are_lent_and_others_say_so() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("live", "Ready"), session("asleep", "Suspended"))
        async with router(fake) as r:
            await fake.stop()
            assert (await r.acquire("live")).token == token("pod-1")
            for conversation in ("new", "asleep"):
                with pytest.raises(PoolExhausted, match="the cluster's API server cannot be reached"):
                    await r.acquire(conversation, 0.2)
            waiting = [r.waits("new") for _ in range(3)]
            await asyncio.sleep(0.05)
            await fake.start()
            await w.created("new")
            await fake.watched(2)
            w.ready("new", "pod-2")
            assert {lease.token for lease in await asyncio.gather(*waiting)} == {token("pod-2")}


async def test_before_the_first_list_requests_wait() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        await fake.stop()
        async with router(fake, synced=False) as r:
            with pytest.raises(PoolExhausted, match="cannot be reached"):
                await r.acquire("a", 0.05)
            waiting = r.waits("a")
            assert (await r.sessions.stats()).error
            await fake.start()
            assert (await waiting).token == token("pod-1")


async def test_a_server_that_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    async def silence(*_: object, **__: object) -> None:
        calls.append(1)
        await asyncio.Event().wait()

    async with world(call_seconds=0.05) as (_, r):
        monkeypatch.setattr(r.sessions._cluster.api, "create", silence)
        with pytest.raises(PoolExhausted, match="cannot be reached"):
            await r.acquire("a", 0.3)
        assert len(calls) > 1


def answer(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(status(code, reason, message), status=code)


@pytest.mark.parametrize(("code", "reason"), [(422, "Invalid"), (403, "Forbidden"), (404, "NotFound")])
async def test_what_will_not_pass_is_said_at_once(code: int, reason: str) -> None:
    async with world() as (w, r):
        w.fake.answers.append(lambda _: answer(code, reason, "spec.x: no good"))
        with pytest.raises(SessionFailed, match=r"spec\.x: no good"):
            await r.acquire("a")


@pytest.mark.parametrize(("code", "reason"), [(500, "InternalError"), (429, "TooManyRequests"), (409, "Conflict")])
async def test_what_may_pass_is_tried_again(code: int, reason: str) -> None:
    async with world() as (w, r), operated(w):
        w.fake.answers += [lambda _: answer(code, reason, "not now")] * 2
        assert await r.acquire("a")
        assert len(w.sent("POST")) == 3


async def test_an_overloaded_server_is_named() -> None:
    async with world() as (w, r):
        w.fake.answers += [lambda _: answer(503, "ServiceUnavailable", "no leader")] * 1000
        with pytest.raises(PoolExhausted, match=r"API server answers with an error \(503: no leader\)"):
            await r.acquire("a", 0.1)


async def test_an_operator_that_suspends_at_once_is_not_asked_in_a_loop() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Suspended"))
        async with router(fake, backoff=lambda n: 0.02 * 2**n) as r:
            waiting = r.waits("a", 0.5)
            for generation in (2, 3, 4):
                await w.asked("a", generation)
                w.write("a", "Suspended")
            with pytest.raises(PoolExhausted):
                await waiting
        assert len(w.sent("PATCH")) <= 6


async def test_an_id_that_is_no_text() -> None:
    async with world() as (_, r):
        with pytest.raises(SessionFailed, match="no text"):
            await r.acquire("a\ud800b")


async def test_closing_tells_who_waits() -> None:
    async with world() as (w, r):
        waiting = r.waits("a")
        await w.created("a")
        await r.sessions.close()
        with pytest.raises(PoolExhausted, match="shutting down"):
            await waiting


async def test_one_that_does_not_go_away() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        w.leave("a")
        async with router(fake) as r:
            with pytest.raises(PoolExhausted, match="it is being deleted"):
                await r.acquire("a", 0.05)
            with pytest.raises(PoolExhausted, match="only being begun"):
                await r.acquire("new", 0.0)
