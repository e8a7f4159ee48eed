"""A request against the eviction of its worker: a thousand requests, each of which evicts or may be evicted.

Real: the operator (Term and all below it), the router's sessions with their copies and asks, HTTP between all parties.
Simulated: the API server and the kubelet, in the same process; how late watches and drains arrive (seeded); pods, which
are ready within milliseconds; and workers, whose turn is one step, and which are busy from its arrival, as the real one
is. A request is sent again only after a refused connection or `x-claude-turn: not-started`, as the router's relay does.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from crds.fake_api import Json
from operator_sim.api import SESSION
from operator_sim.cluster import Cluster, cluster, hurry

TRIES = 1000
WORLDS = 4
MOST_ATTEMPTS = 8


class Moments:
    """Tells when the operator has decided to end a worker: the moment around which the race is close."""

    def __init__(self, c: Cluster) -> None:
        self._decided = asyncio.Event()
        c.api.listeners.append(self._hear)

    def _hear(self, change: str, kind: str, body: Json) -> None:
        if kind == SESSION and body.get("status", {}).get("phase") == "Suspending":
            self._decided.set()

    async def decided(self, served: asyncio.Task[int]) -> None:
        """Return when it has, or when there was no need."""
        self._decided.clear()
        waiting = asyncio.create_task(self._decided.wait())
        await asyncio.wait([waiting, served], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


async def tries(c: Cluster, count: int, draw: random.Random) -> Counter[int]:
    """One asks, which evicts the other; and the other asks again before that, or some time during it."""
    moments = Moments(c)
    attempts: Counter[int] = Counter()
    for number in range(count):
        asks, holds = ("a", "b") if c.phase("b") == "Ready" else ("b", "a")
        first = c.request(asks, f"{asks}{number}", attempts=MOST_ATTEMPTS)
        if draw.random() < 0.9:
            await moments.decided(first)
        await asyncio.sleep(draw.uniform(0, 0.005))
        attempts[await c.turn(holds, f"{holds}{number}", attempts=MOST_ATTEMPTS)] += 1
        attempts[await first] += 1
        c.check()
    return attempts


async def world(seed: int) -> tuple[int, int]:
    """A cluster of its own; how often a turn came too late, and how often a drain."""
    draw = random.Random(seed)
    count = TRIES // WORLDS // 2
    async with cluster(pool={"size": 1}, status_interval=10.0) as c:
        c.api.lag = lambda agent: draw.uniform(0, 0.03) if agent == "router" else 0.0
        # A drained worker is there for a while, as a real one is: it closes its port before it ends.
        c.kubelet.stop_seconds = 0.05
        c.kubelet.lag = lambda: draw.uniform(0, 0.02)
        attempts = await tries(c, count, draw)
        assert attempts.total() == 2 * count
        for who in "ab":
            volumes = [v for v in c.kubelet.volumes.values() if v.conversation == who]
            assert [sorted(v.ran) for v in volumes] == [sorted(f"{who}{n}" for n in range(count))]
        workers = c.kubelet.every
        return sum(w.refusals for w in workers), sum(w.busy_refusals for w in workers)


async def test_no_turn_is_lost_and_none_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, hold=0.5, pool_interval=2.0)
    found = await asyncio.gather(*(world(seed) for seed in range(WORLDS)))
    # Or else nothing was tried here.
    assert sum(turns for turns, _ in found) > 0
    assert sum(drains for _, drains in found) > 0
