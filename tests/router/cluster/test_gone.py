"""Workers that refused."""

from __future__ import annotations

import asyncio

import pytest

from claude_router.cluster.leases import Leases
from claude_router.cluster.sessions import Pace
from claude_router.sessions import Lease, PoolExhausted
from crds.fake_api import FakeApi
from router.cluster.harness import KEY, KIND, World, key, router, session, token

pytestmark = pytest.mark.asyncio
PATIENT = Pace(start=0.2, grace=5.0, suspect=60.0)


async def test_a_refusal_that_passes_is_no_end() -> None:
    async with FakeApi() as fake:
        World(fake).add(session("a", "Ready"))
        async with router(fake) as r:
            lease = await r.acquire("a")
            began = asyncio.get_running_loop().time()
            r.sessions.gone(key("a"), lease)
            assert await r.acquire("a") == lease
            assert asyncio.get_running_loop().time() - began >= 0.1


async def test_another_pod_is_lent_at_once() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake, pace=PATIENT) as r:
            r.sessions.gone(key("a"), await r.acquire("a"))
            waiting = r.waits("a")
            w.ready("a", "pod-2")
            assert (await waiting).token == token("pod-2")
            assert (await r.acquire("a")).token == token("pod-2")


async def test_a_worker_that_drains_is_followed_by_an_ask() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake, pace=PATIENT) as r:
            r.sessions.gone(key("a"), await r.acquire("a"))
            waiting = r.waits("a")
            w.write("a", "Suspending", podName="pod-1")
            await w.asked("a", 2)
            assert not waiting.done()
            w.fake.put(KIND, {**w.object("a"), "status": {"phase": "Suspended", "observedGeneration": 1}})
            await r.sees("a", "Suspended")
            w.ready("a", "pod-2")
            assert (await waiting).token == token("pod-2")
        assert len(w.sent("PATCH")) == 1


async def test_a_router_whose_watch_lags_looks_for_itself() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake, pace=PATIENT) as r:
            lease = await r.acquire("a")
            fake.hang()
            w.ready("a", "pod-2")
            assert await r.acquire("a") == lease, "it cannot know"
            for _ in range(5):
                r.sessions.gone(key("a"), lease)
            assert (await r.acquire("a")).token == token("pod-2")
            assert w.sent("GET").count(f"{KIND}/{key('a').name}") == 1


async def test_a_lost_session_is_asked_for_even_when_the_watch_lags() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake, pace=PATIENT) as r:
            lease = await r.acquire("a")
            fake.hang()
            w.write("a", "Suspended")
            r.sessions.gone(key("a"), lease)
            waiting = r.waits("a")
            await w.asked("a", 2)
            waiting.cancel()


async def test_a_worker_that_keeps_refusing() -> None:
    async with FakeApi() as fake:
        World(fake).add(session("a", "Ready"))
        async with router(fake, pace=PATIENT) as r:
            r.sessions.gone(key("a"), await r.acquire("a"))
            with pytest.raises(PoolExhausted, match="its worker refuses"):
                await r.acquire("a", 0.05)


async def test_without_the_api_server_it_is_tried_again() -> None:
    async with FakeApi() as fake:
        World(fake).add(session("a", "Ready"))
        async with router(fake) as r:
            lease = await r.acquire("a")
            await fake.stop()
            r.sessions.gone(key("a"), lease)
            assert await r.acquire("a") == lease


async def test_the_book_of_suspects_stays_small() -> None:
    now = [0.0]
    async with FakeApi() as fake, router(fake) as r:
        leases = Leases(r.sessions.sessions, "ns", KEY, suspect_seconds=1.0, clock=lambda: now[0])
        for number in range(5000):
            leases.suspect(Lease(f"s{number}", "http://x", "t"))
        assert len(leases._suspects) == 4096
        assert leases.suspected("s4999") == 1.0
        assert leases.suspected("s0") == 0.0
        now[0] = 1.0
        leases.suspect(Lease("s", "http://x", "t"))
        assert set(leases._suspects) == {"s"}
