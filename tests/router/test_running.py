"""Counting the turns that run."""

from __future__ import annotations

import asyncio

import pytest

from claude_router.running import REST_SECONDS, Running
from router.fakes import PATIENCE

pytestmark = pytest.mark.asyncio


async def test_idle_at_once() -> None:
    assert await Running().idle(0.0)


async def test_idle_when_the_last_one_ends() -> None:
    running = Running()
    first, second = asyncio.Event(), asyncio.Event()

    async def turn(end: asyncio.Event) -> None:
        with running:
            await end.wait()

    turns = [asyncio.create_task(turn(first)), asyncio.create_task(turn(second))]
    await asyncio.sleep(0)
    waiters = [asyncio.create_task(running.idle(PATIENCE)) for _ in range(2)]
    first.set()
    await turns[0]
    for _ in range(5):  # would let a waiter that was woken too early end
        await asyncio.sleep(0)
    assert running.count == 1
    assert not any(waiter.done() for waiter in waiters)
    second.set()
    assert await asyncio.gather(*waiters) == [True, True]


async def test_a_conversation_rests_after_its_last_turn_and_not_while_one_runs() -> None:
    now = 100.0
    running = Running(lambda: now)
    running.begin("a")
    running.begin("a")
    running.end("a")
    assert running.rest("a") == 0.0, "another of its turns runs"
    running.end("a")
    running.begin("a")  # the one that asks
    assert running.rest("a") == REST_SECONDS
    assert running.rest("b") == 0.0
    now += 0.1
    assert running.rest("a") == pytest.approx(REST_SECONDS - 0.1)
    running.begin("a")
    assert running.rest("a") == 0.0, "it is in the line of another"
    now += 60
    for name in "abc":
        running.begin(name)
        running.end(name)
    assert list(running._ended) == ["b", "c"], "what is over is forgotten, and `a` still runs"


async def test_the_grace_ends() -> None:
    running = Running()
    with running:
        assert not await running.idle(0.001)
    assert await running.idle(PATIENCE)


async def test_a_failed_turn_counts_down_as_well() -> None:
    running = Running()
    with pytest.raises(ValueError, match="x"), running:
        raise ValueError("x")
    assert running.count == 0


async def test_the_end_is_announced_before_turns_are_refused() -> None:
    running = Running()
    running.announce()
    assert (running.ending, running.draining) == (True, False)
    running.drain()
    assert (running.ending, running.draining) == (True, True)


async def test_which_conversations_have_a_turn() -> None:
    running = Running()
    for name in ("a", "a", "b"):
        running.begin(name)
    running.end("a")
    assert [running.has(name) for name in "abc"] == [True, True, False]
    running.end("a")
    running.end("b")
    assert [running.has(name) for name in "abc"] == [False] * 3
