"""Hundreds of random things in a row, on purpose too fast for each other; the laws are looked at with every change."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest

from claude_crds.resources import SESSION_LABEL
from claude_operator.sweep import sweep
from claude_router.sessions import PoolExhausted, SessionFailed
from operator_sim.api import POD, SESSION
from operator_sim.cluster import PATIENCE, Cluster, Lost, cluster, hurry, name

STEPS = 300
CONVERSATIONS = "abcde"


class Churn:
    """One world, and what is done to it."""

    def __init__(self, c: Cluster, seed: int) -> None:
        self.c = c
        self.draw = random.Random(seed)
        self.requests: list[asyncio.Task[str]] = []
        self.steps: Counter[str] = Counter()

    async def step(self) -> None:
        actions = {
            self.request: 60, self.pause: 15, self.suspend: 6, self.delete: 5, self.scale: 5, self.edit: 3,
            self.lose: 5, self.restart: 3, self.crash: 3, self.compact: 2, self.hold: 4,
        }  # fmt: skip
        [action] = self.draw.choices(list(actions), list(actions.values()))
        self.steps[action.__name__] += 1
        await action()
        await asyncio.sleep(self.draw.choice((0.0, 0.0, 0.002, 0.01)))
        self.c.check()

    def _one(self) -> str:
        return self.draw.choice(CONVERSATIONS)

    async def _turn(self, conversation: str, turn: str) -> str:
        try:
            await self.c.turn(conversation, turn, wait=PATIENCE)
        except (Lost, SessionFailed, PoolExhausted) as error:
            return type(error).__name__
        return "served"

    async def request(self) -> None:
        conversation = self._one()
        turn = f"{conversation}{len(self.requests)}"
        self.requests.append(asyncio.create_task(self._turn(conversation, turn)))

    async def pause(self) -> None:
        await asyncio.sleep(self.draw.uniform(0, 0.1))

    async def suspend(self) -> None:
        if self.c.session(conversation := self._one()):
            self.c.suspend(conversation)

    async def delete(self) -> None:
        self.c.delete_session(self._one())

    async def scale(self) -> None:
        size = self.draw.randint(0, 4)
        self.c.pool(size=size, warm=self.draw.randint(0, min(size, 2)))

    async def edit(self) -> None:
        self.c.pool(model=f"m{self.draw.randint(0, 9)}")

    async def lose(self) -> None:
        if pods := self.c.pods():
            self.c.kubelet.by_hand.add(pod := self.draw.choice(pods))
            self.c.api.begin_deletion(POD, pod)

    async def restart(self) -> None:
        running = [pod for pod in self.c.kubelet.workers if not self.c.leaving(pod)]
        if running:
            await self.c.kubelet.restart(self.draw.choice(running))

    async def hold(self) -> None:
        for worker in tuple(self.c.kubelet.workers.values()):
            if self.draw.random() < 0.5:
                worker.holding = True
        await asyncio.sleep(self.draw.uniform(0, 0.05))
        for worker in self.c.kubelet.every:
            worker.release()

    async def crash(self) -> None:
        await self.c.operator.kill()
        await self.c.another_operator()

    async def compact(self) -> None:
        self.c.api.compact()
        self.c.api.cut()

    async def settle(self) -> None:
        """Nothing is done any more: who still waits is served, and so is everybody who asks now."""
        c = self.c
        c.pool(size=3, warm=1)
        for worker in c.kubelet.every:
            worker.release()
        async with asyncio.timeout(PATIENCE):
            outcomes = Counter(await asyncio.gather(*self.requests))
        assert outcomes["served"] > len(self.requests) / 2, outcomes
        for conversation in CONVERSATIONS:
            await c.eventually(conversation, f"{conversation}-last")
        ran = Counter(turn for v in c.kubelet.volumes.values() for turn in v.ran)
        assert max(ran.values()) == 1
        await sweep(c.operator.term.world, c.operator.term._acts, time.time() + 10_000)
        await c.until(self._tidy, "tidy")

    def _tidy(self) -> bool:
        c = self.c
        pods = c.api.all(POD)
        bound = {p["metadata"]["labels"].get(SESSION_LABEL) for p in pods} - {None}
        spares = {p["metadata"]["name"] for p in pods if SESSION_LABEL not in p["metadata"]["labels"]}
        held = {s["status"].get("volumeClaimName") for s in c.api.all(SESSION)}
        return bound <= {name(s) for s in CONVERSATIONS} and len(pods) <= 3 and set(c.claims()) == held | spares


async def churn(seed: int) -> None:
    async with cluster(pool={"size": 3, "warm": 1}) as c:
        world = Churn(c, seed)
        for _ in range(STEPS):
            await world.step()
        await world.settle()


@pytest.mark.timeout(280)
async def test_the_laws_hold_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    await asyncio.gather(*(churn(seed) for seed in range(2)))
