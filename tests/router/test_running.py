"""Counting the turns that run."""

from __future__ import annotations

import asyncio

import pytest

from claude_router.running import REST_SECONDS, Running
from router.fakes import PATIENCE

pytestmark = pytest.mark.asyncio

real_sleep = asyncio.sleep


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


class Crowd:
    """Time stands still but for what is slept; whether others wait is the test's word."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.there = True
        self.running = Running(lambda: self.now)
        self.sent: list[str] = []
        self.slept: list[float] = []
        patch.setattr("claude_router.running.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await real_sleep(0)

    async def send(self, name: str, word: str) -> None:
        await self.running.give_way(name, lambda: self.there)
        self.sent.append(word)


async def test_while_others_wait_turns_of_a_conversation_are_sent_one_by_one_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = Crowd(monkeypatch)
    running = crowd.running
    await crowd.send("a", "first")
    waiting = [asyncio.create_task(crowd.send("a", word)) for word in ("second", "third")]
    await crowd.send("b", "another's")
    for _ in range(20):
        await real_sleep(0)
    assert crowd.sent == ["first", "another's"]
    ended = crowd.now
    running.over("a")
    await waiting[0]
    assert crowd.now - ended >= REST_SECONDS
    for _ in range(20):
        await real_sleep(0)
    assert crowd.sent == ["first", "another's", "second"]
    crowd.there = False
    await waiting[1]
    running.over("a")
    running.over("a")
    running.over("b")
    crowd.now += 60
    await crowd.send("c", "after a pause")
    running.over("c")
    assert list(running._ended) == ["c"], "what is over is forgotten"
    assert not running._sent
    assert not running._gates


async def test_a_turn_rests_only_while_others_wait_and_only_after_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = Crowd(monkeypatch)
    await crowd.send("a", "first")
    crowd.running.over("a")
    crowd.there = False
    await crowd.send("a", "nobody waits")
    crowd.running.over("a")
    crowd.there = True
    await crowd.send("b", "another one")
    assert crowd.slept == []
    crowd.now += 0.1
    await crowd.send("a", "soon after")
    assert crowd.slept == [pytest.approx(REST_SECONDS - 0.1)]
    crowd.running.over("a")
    crowd.now += REST_SECONDS
    await crowd.send("a", "long after")
    assert len(crowd.slept) == 1


async def test_who_gives_up_while_it_waits_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(monkeypatch)
    await crowd.send("a", "first")
    left, stays = (asyncio.create_task(crowd.send("a", word)) for word in ("left", "stays"))
    await real_sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    crowd.running.over("a")
    await stays
    assert crowd.sent == ["first", "stays"]


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
