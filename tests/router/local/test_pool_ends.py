"""Suspending, purging, dying, failing to start, shutting down: what ends a worker, and what is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from claude_router.local import strays
from claude_router.local.workers import FAILURES_IN_A_ROW
from claude_router.sessions import PoolExhausted, SessionFailed
from router.local.harness import PATIENCE, alive, eventually, exists, key, pool


async def test_suspend_keeps_memory(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        first = await p.turn("one", "kept")
        assert await p.sessions.suspend(key("one"))
        assert p.live == {}
        assert not exists(first["pid"])
        assert (await p.turn("one", "more"))["memory"] == ["kept", "more"]
        assert await p.sessions.suspend(key("never seen")) is False


async def test_a_suspended_conversations_record_is_on_disk(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.turn("one")  # written at once; what comes soon after it is not
        await p.turn("one")
        await p.sessions.suspend(key("one"))
        [file] = (p.store.root / "sessions").iterdir()
        written = json.loads(file.read_bytes())
        assert (written["turns"], written["claude_session_id"]) == (2, "fake-session")


async def test_suspend_lets_the_turn_end_within_the_grace(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        async with p.running_turn("one") as turn:
            suspending = asyncio.create_task(p.sessions.suspend(key("one")))
            await p.rounds.next()
            assert not p.worker("one").leaving
        assert (await turn)["interrupted"] is False
        assert await suspending
        assert p.live == {}


async def test_suspend_interrupts_the_turn_after_the_grace(tmp_path: Path) -> None:
    async with pool(tmp_path, grace=0.1) as p, p.running_turn("one") as turn:
        assert await p.sessions.suspend(key("one"))
        assert (await turn)["interrupted"] is True


async def test_a_request_after_a_suspend_is_served(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.turn("one", "a")
        suspending = asyncio.create_task(p.sessions.suspend(key("one")))
        await asyncio.sleep(0)
        answer = await p.turn("one", "b")
        assert answer["memory"] == ["a", "b"]
        assert await suspending


async def test_purge_deletes_memory_and_the_next_turn_begins_anew(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        first = await p.turn("one", "forget me")
        assert await p.sessions.purge(key("one"))
        assert not exists(first["pid"])
        assert p.store.volumes.ids() == []
        assert list((p.store.root / "sessions").iterdir()) == []
        assert await p.sessions.get(key("one")) is None
        assert await p.sessions.purge(key("one")) is False
        assert (await p.turn("one", "new"))["memory"] == ["new"]


async def test_purge_interrupts_a_running_turn_and_waiters_get_a_new_conversation(tmp_path: Path) -> None:
    async with pool(tmp_path) as p, p.running_turn("one") as turn:
        purging = [asyncio.create_task(p.sessions.purge(key("one"))) for _ in range(2)]
        await p.until(lambda: p.worker("one").leaving)
        waiting = asyncio.create_task(p.turn("one", "after"))
        assert await asyncio.gather(*purging) == [True, True]
        assert (await turn)["interrupted"] is True
        assert (await waiting)["memory"] == ["after"]


async def test_a_killed_worker_is_replaced_on_the_same_volume(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        first = await p.turn("one", "a")
        os.kill(first["pid"], signal.SIGKILL)
        await p.until(lambda: not p.live)
        assert not exists(first["pid"])  # reaped, too
        second = await p.turn("one", "b")
        assert second["volume"] == first["volume"]
        assert second["memory"] == ["a", "b"]


async def test_a_lease_on_a_dead_worker_is_given_back(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        lease = await p.acquire("one")
        os.kill(p.worker("one").process.pid, signal.SIGKILL)
        with pytest.raises((aiohttp.ClientError, OSError)):
            await p.send(lease, say="lost")
        p.sessions.gone(key("one"), lease)
        fresh = await p.acquire("one")
        assert fresh.token != lease.token
        assert (await p.send(fresh, say="found"))["memory"] == ["found"]


async def test_a_worker_that_is_well_is_lent_again(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        lease = await p.acquire("one")
        p.sessions.gone(key("one"), lease)
        assert not p.worker("one").lendable()
        assert await p.acquire("one") == lease


async def test_a_worker_that_does_not_answer_is_killed(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        lease = await p.acquire("one")
        stuck = p.worker("one").process.pid
        os.kill(stuck, signal.SIGSTOP)
        p.sessions.gone(key("one"), lease)
        fresh = await p.acquire("one")
        assert fresh.token != lease.token
        assert not exists(stuck)


async def test_a_crash_in_a_turn_is_not_a_failed_start(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.turn("one", "a")
        await p.until(lambda: p.worker("one").proven)
        with pytest.raises((aiohttp.ClientError, OSError)):
            await p.send(await p.acquire("one"), crash=True)
        await p.until(lambda: not p.live)
        assert (await p.turn("one", "b"))["memory"] == ["a", "b"]
        assert p.sessions._workers.wanted[key("one").name].failures == 0


async def test_a_deaf_worker_is_killed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_router.local.process._STOP_SECONDS", 0.2)
    async with pool(tmp_path, environment={"FAKE_DEAF": "1"}) as p:
        answer = await p.turn("one")
        await p.sessions._workers.end(p.worker("one"), 0)
        assert not exists(answer["pid"])


async def test_what_a_worker_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    async with pool(tmp_path, environment={"FAKE_CHILD": "1"}) as p:
        await p.turn("one")
        live = p.worker("one")
        marked = strays.find(f"{live.volume.path}#{live.name}")
        assert len(marked) == 2  # the worker, and a process in a session of its own
        await p.sessions.suspend(key("one"))
        assert eventually(lambda: not any(alive(pid) for pid in marked))


@pytest.mark.parametrize("how", ["no claude found", "failed:no claude found"])
async def test_a_worker_that_cannot_start(tmp_path: Path, how: str) -> None:
    async with pool(tmp_path) as p:
        p.broken.write_text(how)
        with pytest.raises(SessionFailed, match=r"could not be started 3 times in a row.*no claude found"):
            await p.acquire("one")
        starts = len(p.starts())
        assert starts == FAILURES_IN_A_ROW
        assert "no claude found" in (await p.sessions.stats()).error
        with pytest.raises(SessionFailed):  # at once: during the back-off nothing is tried
            await p.acquire("one")
        p.pass_time(0)
        assert len(p.starts()) == starts
        assert p.store.records == {}

        p.broken.unlink()
        p.pass_time(60)
        await p.until(lambda: any(w.answers() for w in p.live.values()))
        p.pass_time(60)  # long enough for its CLI to have booted
        await p.until(lambda: not p.sessions._workers.error)
        assert (await p.turn("one"))["memory"] == ["hello"]


async def test_spares_that_cannot_start_are_tried_less_and_less_often(tmp_path: Path) -> None:
    async with pool(tmp_path, warm=1) as p:
        p.broken.write_text("broken")
        workers = p.sessions._workers
        await p.until(lambda: workers.failures == 1)
        for expected in (2, 3, 4):
            wait = workers.warm_not_before - workers.clock()
            assert 0 < wait <= 0.5 * 2 ** (expected - 2)
            p.pass_time(wait)
            await p.until(lambda n=expected: workers.failures == n)  # type: ignore[misc]
        assert "broken" in workers.error
        await p.until(lambda: not p.live)
        assert p.store.volumes.ids() == []


async def test_one_broken_conversation_is_not_a_broken_pool(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.turn("one")
        await p.sessions.suspend(key("one"))
        p.broken.write_text("its volume is broken")
        with pytest.raises(SessionFailed):
            await p.acquire("one")
        await p.until(lambda: not p.live)
        assert (await p.sessions.stats()).error == ""
        view = await p.sessions.get(key("one"))
        assert view is not None
        assert (view.phase, "its volume is broken" in view.message) == ("Failed", True)


async def test_close_drains_turns_and_leaves_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path, warm=1) as p:
        idle = await p.turn("idle")
        async with p.running_turn("running") as turn:
            running = p.worker("running").process.pid
            waiting = asyncio.create_task(p.acquire("late"))
            closing = asyncio.create_task(p.sessions.close(PATIENCE))
            await p.until(lambda: key("idle").name not in {w.session for w in p.live.values()})
            assert not turn.done()
            with pytest.raises(PoolExhausted, match="shutting down"):
                await p.acquire("another")
        assert (await turn)["interrupted"] is False
        await closing
        assert not any(exists(pid) for pid in (idle["pid"], running, *(pid for pid, _ in p.starts())))
        assert waiting.done()
        assert [r.turns for r in p.store.records.values()] == [1, 1]


async def test_close_interrupts_a_turn_after_the_grace(tmp_path: Path) -> None:
    async with pool(tmp_path) as p, p.running_turn("one") as turn:
        await p.sessions.close(0.1)
        assert (await turn)["interrupted"] is True


async def test_kill_ends_a_close_at_once(tmp_path: Path) -> None:
    async with pool(tmp_path, environment={"FAKE_DEAF": "1"}) as p, p.running_turn("one") as turn:
        pid = p.worker("one").process.pid
        closing = asyncio.create_task(p.sessions.close(3600))
        await p.until(lambda: p.worker("one").leaving)
        p.sessions.kill()
        await closing
        assert not exists(pid)
        with pytest.raises(aiohttp.ClientError):
            await turn


async def test_no_descriptor_is_leaked(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with pool(tmp_path, size=2) as p:
        for i in range(3):
            await p.turn(f"conversation {i}")
        await p.sessions.suspend(key("conversation 1"))
        await p.sessions.suspend(key("conversation 2"))
        await p.until(lambda: not p.live)
        before = descriptors()
        for i in range(6):
            await p.turn(f"conversation {i}")
        for i in range(6):
            await p.sessions.suspend(key(f"conversation {i}"))
        await p.until(lambda: not p.live)
        assert descriptors() <= before
