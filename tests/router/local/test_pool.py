"""Local sessions over fake workers: who gets a worker, and who has to make room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from claude_router.sessions import PoolExhausted
from router.local.harness import alive, key, pool


async def test_three_requests_at_once_start_one_worker(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        leases = await asyncio.gather(*(p.acquire("one") for _ in range(3)))
        assert len(set(leases)) == 1
        assert len(p.starts()) == 1


async def test_a_hot_worker_is_lent_again_without_a_start(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        first = await p.turn("one", "a")
        second = await p.turn("one", "b")
        assert (first["pid"], second["memory"]) == (second["pid"], ["a", "b"])


async def test_a_new_conversation_claims_the_spare(tmp_path: Path) -> None:
    async with pool(tmp_path, warm=1) as p:
        await p.until(lambda: [w for w in p.live.values() if w.process.status])
        [(spare, volume)] = p.starts()
        answer = await p.turn("one")
        assert answer["pid"] == spare
        assert p.store.records[key("one").name].volume == volume
        assert len(p.live) == 1, "the next spare boots beside the conversation's first turn"
        p.pass_time(2)
        await p.until(lambda: len(p.live) == 2)
        assert (await p.sessions.stats()).warm == 1


async def test_the_size_is_never_exceeded(tmp_path: Path) -> None:
    most = 0
    async with pool(tmp_path, size=2, warm=1) as p:
        seen = p.rounds._watched

        def watched(now: float) -> float | None:
            nonlocal most
            wake_at = seen(now)
            most = max(most, len(p.live), sum(alive(pid) for pid, _ in p.starts()))
            return wake_at

        p.sessions._reconciler._round = watched  # type: ignore[method-assign]
        answers = await asyncio.gather(*(p.turn(f"conversation {i}") for i in range(7)))
        assert len({a["volume"] for a in answers}) == 7
    assert most == 2


async def test_the_least_recently_active_one_makes_room(tmp_path: Path) -> None:
    async with pool(tmp_path, size=2) as p:
        for conversation in ("old", "new", "old"):  # so "new" was active least recently
            await p.turn(conversation)
        await p.turn("third")
        assert {w.session for w in p.live.values()} == {key("old").name, key("third").name}
        view = await p.sessions.get(key("new"))
        assert view is not None
        assert (view.phase, view.turns) == ("Suspended", 1)


async def test_an_evicted_conversation_resumes_on_its_volume(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p:
        first = await p.turn("one", "remember me")
        await p.turn("two")
        again = await p.turn("one", "again")
        assert again["pid"] != first["pid"]
        assert again["memory"] == ["remember me", "again"]


async def test_a_busy_worker_is_not_evicted_and_the_wait_ends_at_its_deadline(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p, p.running_turn("busy") as turn:
        with pytest.raises(PoolExhausted, match="all 1 workers are busy; it was number 1"):
            await p.acquire("other", wait=0.2)
        assert not turn.done()
        assert len(p.starts()) == 1


async def test_a_waiting_request_is_served_when_the_turn_ends(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p:
        async with p.running_turn("busy"):
            waiting = asyncio.create_task(p.acquire("other"))
            await p.until(lambda: p.sessions._reconciler.positions)
            view = await p.sessions.get(key("other"))
            assert view is not None
            assert (view.phase, view.message) == ("Queued", "number 1 in the line for a worker")
            assert (await p.sessions.stats()).queued == 1
        assert (await waiting).name == key("other").name


async def test_a_request_that_leaves_is_not_waited_for(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p:
        async with p.running_turn("busy"):
            waiting = asyncio.create_task(p.acquire("other"))
            await p.until(lambda: p.sessions._reconciler.positions)
            waiting.cancel()
            await p.until(lambda: not p.sessions._reconciler.positions)
            assert await p.sessions.get(key("other")) is None
        assert len(p.starts()) == 1
        assert (await p.turn("busy"))["memory"] == ["held", "hello"]


async def test_a_worker_that_nobody_waits_for_any_more_becomes_a_spare(tmp_path: Path) -> None:
    async with pool(tmp_path, warm=0) as p:
        waiting = asyncio.create_task(p.acquire("left"))
        await p.until(lambda: p.live)
        waiting.cancel()
        await p.until(lambda: not p.live)
        assert p.store.records == {}
        assert p.store.volumes.ids() == []


async def test_idle_ones_are_suspended_after_the_timeout(tmp_path: Path) -> None:
    async with pool(tmp_path, idle_timeout=300) as p:
        first = await p.turn("one")
        p.pass_time(299)
        await p.rounds.next()
        assert len(p.live) == 1
        p.pass_time(2)
        await p.until(lambda: not p.live)
        assert not alive(first["pid"])
        stats = await p.sessions.stats()
        assert (stats.live, stats.suspended) == (0, 1)
        assert (await p.turn("one"))["memory"] == ["hello", "hello"]


async def test_a_busy_one_is_not_idle_however_long_its_turn(tmp_path: Path) -> None:
    async with pool(tmp_path, idle_timeout=300) as p, p.running_turn("long") as turn:
        p.pass_time(3000)
        await p.rounds.next()
        assert not p.worker("long").leaving
        assert not turn.done()


async def test_a_lease_on_its_way_keeps_the_worker(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p:
        lease = await p.acquire("one")
        other = asyncio.create_task(p.acquire("two"))
        await p.until(lambda: p.sessions._reconciler.positions)
        assert (await p.send(lease, say="arrived"))["memory"] == ["arrived"]
        assert (await other).name == key("two").name


async def test_a_refused_drain_leaves_the_worker_in_service(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p, p.running_turn("busy") as turn:
        live = p.worker("busy")
        p.sessions._workers.drain(live, "evicted")  # as if its status had come too late
        await p.until(lambda: not live.leaving)
        assert (await p.acquire("busy")).token == live.process.token
        assert not turn.done()


async def test_stats_and_views(tmp_path: Path) -> None:
    async with pool(tmp_path, size=2) as p:
        await p.turn("a")
        await p.turn("b")
        await p.turn("c")
        stats = await p.sessions.stats()
        assert (stats.size, stats.live, stats.warm, stats.suspended, stats.queued) == (2, 2, 0, 1, 0)
        assert (stats.cli_version, stats.error) == ("0.0-fake", "")
        names = sorted(key(k).name for k in "abc")
        views = await p.sessions.list("default", limit=2)
        assert [v.key.name for v in views] == names[:2]
        rest = await p.sessions.list("default", limit=2, after=names[1])
        assert [v.key.name for v in rest] == names[2:]
        assert await p.sessions.list("another tenant", limit=9) == []
        view = await p.sessions.get(key("c"))
        assert view is not None
        assert (view.phase, view.turns, view.usage.input_tokens, view.claude_session_id) == (
            "Ready", 1, 10, "fake-session",
        )  # fmt: skip
        assert view.workspace == str(p.worker("c").volume.workspace)
