"""Teams that share the pool of one machine."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from claude_router.app import create_app
from claude_router.sessions import ConversationKey, PoolExhausted, SessionFailed
from claude_router.settings import RouterSettings
from router.harness import body, endpoint
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


async def test_two_who_ask_on_and_on_in_one_conversation_make_way_too(tmp_path: Path) -> None:
    """Their turns overlap, so without a rest between them its worker would never be idle."""
    async with pool(tmp_path, size=1) as p, contextlib.AsyncExitStack() as stack:
        app = create_app(RouterSettings(queue_timeout=20.0), p.sessions, version="1")
        router = await stack.enter_async_context(endpoint(app=app))
        turns = 0

        async def ask_on_and_on(later: float) -> None:
            nonlocal turns
            await asyncio.sleep(later)
            while True:
                answer = await router.chat(body(say="more", seconds=0.3), x_conversation_id="busy")
                assert answer.status_code == 200, answer.text
                turns += 1

        asking = [asyncio.create_task(ask_on_and_on(later)) for later in (0.0, 0.15)]
        for task in asking:
            stack.callback(task.cancel)
        await p.until(lambda: turns > 3)
        answer = await router.chat(body(say="mine"), x_conversation_id="waits")
        assert answer.json()["memory"] == ["mine"]
        before = turns
        await p.until(lambda: turns > before + 1)
        assert not any(task.done() for task in asking)


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
