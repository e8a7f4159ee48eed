"""Teams that share the pool of one machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from claude_router.sessions import ConversationKey, PoolExhausted, SessionFailed
from router.local.harness import Pool, pool
from router.namesakes import BLUE, RED


def acquire(p: Pool, team: str, conversation: str, wait: float = 30.0) -> asyncio.Task[str]:
    async def name() -> str:
        deadline = asyncio.get_running_loop().time() + wait
        return (await p.sessions.acquire(ConversationKey(team, conversation), deadline=deadline)).name

    return asyncio.create_task(name())


async def test_a_namesake_in_another_team_is_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path, size=2) as p:
        deadline = asyncio.get_running_loop().time() + 30
        lease = await p.sessions.acquire(RED, deadline=deadline)
        await p.send(lease, say="red's secret")
        for suspended in (False, True):
            with pytest.raises(SessionFailed, match="choose another"):
                await p.sessions.acquire(BLUE, deadline=deadline)
            assert await p.sessions.get(BLUE) is None
            assert not await p.sessions.suspend(BLUE)
            assert not await p.sessions.purge(BLUE)
            found = await p.sessions.get(RED)
            assert found is not None
            assert (found.key, found.phase) == (RED, "Suspended" if suspended else "Ready")
            assert await p.sessions.suspend(RED)
        assert await p.sessions.purge(RED)
        lease = await p.sessions.acquire(BLUE, deadline=deadline)
        assert (await p.send(lease, say="blue asks"))["memory"] == ["blue asks"]


async def test_under_a_flood_the_first_of_another_team_is_next(tmp_path: Path) -> None:
    async with pool(tmp_path, size=1) as p:
        async with p.running_turn("busy"):
            flood = [acquire(p, "default", f"m{i}") for i in range(5)]
            await p.until(lambda: len(p.sessions._reconciler.positions) == 5)
            asked = acquire(p, "few", "f")
            await p.until(lambda: len(p.sessions._reconciler.positions) == 6)
            assert p.sessions._reconciler.positions[ConversationKey("few", "f").name] == 1
        await asked
        assert not any(task.done() for task in flood)
        for task in flood:
            task.cancel()


async def test_a_team_at_its_limit_waits_for_itself_only(tmp_path: Path) -> None:
    async with pool(tmp_path, size=3) as p:
        shares = {"default": 1}
        p.sessions._reconciler._shares = lambda: shares
        async with p.running_turn("busy"):
            with pytest.raises(PoolExhausted, match="all workers that its team may have are busy; it was number 1"):
                await acquire(p, "default", "more", wait=0.2)
            await acquire(p, "other", "o")
            shares = {"default": 2}
            await acquire(p, "default", "more")
