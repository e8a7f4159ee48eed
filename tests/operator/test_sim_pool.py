"""Pools on a simulated cluster: edited, scaled, missing."""

from __future__ import annotations

import pytest

from claude_crds.resources import TEMPLATE_LABEL
from claude_router.sessions import SessionFailed
from operator_sim.api import POD, POOL
from operator_sim.cluster import Cluster, cluster, hurry


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def templates(c: Cluster) -> set[str]:
    return {p["metadata"]["labels"][TEMPLATE_LABEL] for p in c.api.all(POD)}


async def test_spares_follow_the_pools_wish() -> None:
    async with cluster(pool={"size": 3, "warm": 2}) as c:
        await c.until(lambda: len(c.spares()) == 2, "two")
        c.pool(warm=3)
        await c.until(lambda: len(c.spares()) == 3, "three")
        await c.until(lambda: c.pool_status().get("warm") == 3, "the pool says so")
        c.pool(warm=1)
        await c.until(lambda: len(c.pods()) == 1, "one")
        await c.until(lambda: len(c.claims()) == 1, "one volume")
        await c.until(lambda: c.pool_reason() == "WorkersStart", "the pool is well")


async def test_a_larger_pool_serves_those_who_wait() -> None:
    async with cluster(pool={"size": 1}) as c:
        worker, turn = await c.held("a")
        task = c.request("b")
        await c.phased("b", "Queued")
        c.pool(size=2)
        await task
        worker.release()
        await turn


async def test_a_smaller_pool_keeps_the_busy_and_lets_the_idle_go() -> None:
    async with cluster(pool={"size": 3}) as c:
        worker, turn = await c.held("a")
        await c.turn("b")
        await c.turn("c")
        c.pool(size=1)
        await c.phased("b", "Suspended")
        await c.phased("c", "Suspended")
        assert c.phase("a") == "Ready"
        worker.release()
        await turn


async def test_a_pool_of_size_0_pauses_and_says_so() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        c.pool(size=0)
        await c.phased("a", "Suspended")
        task = c.request("a")
        await c.phased("a", "Queued")
        assert "size is 0" in c.status("a")["message"]
        c.pool(size=1)
        await task


async def test_an_edit_replaces_idle_workers_one_at_a_time_and_busy_ones_when_they_are_done() -> None:
    async with cluster(pool={"size": 3, "warm": 1}) as c:
        worker, turn = await c.held("a")
        await c.turn("b")
        await c.until(lambda: len(c.spares()) == 1, "a spare")
        [old] = templates(c)
        going: set[int] = set()

        def count(change: str, kind: str, body: object) -> None:
            going.add(sum(bool(p["metadata"].get("deletionTimestamp")) for p in c.api.all(POD)))

        c.api.listeners.append(count)
        c.kubelet.stop_seconds = 0.05
        c.pool(model="other")
        await c.phased("b", "Suspended")
        await c.until(lambda: len(c.spares()) == 1 and len(templates(c) - {old}) == 1, "a new spare")
        assert c.pods("a") == [worker.pod]
        assert going == {0, 1}
        worker.release()
        await turn
        await c.phased("a", "Suspended")
        await c.turn("a")
        assert old not in templates(c)


async def test_an_edit_of_the_sizes_replaces_nobody() -> None:
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        await c.turn("a")
        await c.until(lambda: len(c.spares()) == 1, "a spare")
        before = sorted(c.pods())
        c.pool(size=3, idleTimeout="1h", retention="24h")
        generation = (c.api.get(POOL, "default") or {})["metadata"]["generation"]
        await c.until(lambda: c.pool_status().get("observedGeneration") == generation, "seen")
        assert sorted(c.pods()) == before


async def test_without_its_pool_a_session_fails_and_it_recovers_with_it() -> None:
    async with cluster(pool=None) as c:
        with pytest.raises(SessionFailed, match="ClaudePool default does not exist"):
            await c.turn("a")
        assert (c.phase("a"), c.reason("a")) == ("Failed", "PoolNotFound")
        c.pool(size=1)
        await c.phased("a", "Suspended")
        await c.turn("a")


async def test_a_pool_that_is_deleted_takes_its_workers_and_leaves_the_sessions_volumes() -> None:
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        await c.turn("a", "t1")
        await c.until(lambda: len(c.spares()) == 1, "a spare")
        c.api.begin_deletion(POOL, "default")
        await c.until(lambda: not c.pods() and len(c.claims()) == 1, "workers and spares gone")
        await c.until(lambda: c.reason("a") == "PoolNotFound", "says so")
        c.pool(size=1)
        await c.turn("a", "t2")
        assert c.worker("a").volume.ran == ["t1", "t2"]


async def test_two_pools_do_not_meddle() -> None:
    async with cluster(pool={"size": 1, "warm": 1}) as c:
        c.pool("other", size=2, warm=2)
        await c.until(lambda: len(c.spares()) == 3, "spares of both")
        await c.turn("a")
        assert len(c.pods()) == 3
