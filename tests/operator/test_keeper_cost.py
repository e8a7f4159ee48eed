"""What an event costs the operator does not grow with the number of suspended sessions."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from claude_crds.access import Access
from claude_crds.api import Api
from claude_crds.resources import Phase
from claude_crds.views import ClaudePool, ClaudeSession, Metadata, PoolSpec, SessionSpec, SessionStatus
from claude_operator.acts import Acts
from claude_operator.faults import Faults
from claude_operator.keeper import Keeper
from claude_operator.metrics import OperatorMetrics
from claude_operator.recorder import Recorder
from claude_operator.settings import OperatorSettings
from claude_operator.state import PoolState
from claude_operator.workers import Workers
from claude_operator.world import World

ROUNDS = 300
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def session(number: int, phase: str) -> ClaudeSession:
    name = f"conv-{number}"
    return ClaudeSession(
        metadata=Metadata(name=name, uid=name, generation=1, resource_version=str(number + 1)),
        spec=SessionSpec(conversation_id=name, last_request_time=NOW),
        status=SessionStatus(phase=phase, observed_generation=1, turns=1),
    )


async def cost(suspended: int) -> float:
    """Processor seconds of a round, while 20 sessions want something and so many do not: the best of some."""
    settings = OperatorSettings(worker_image="i", worker_key_file="k")
    async with Api(lambda: Access("http://127.0.0.1:9")) as api:
        world = World(api, "ns", lambda _: None, resync=300.0)
        world.pools._cache.replace([ClaudePool(metadata=Metadata(name="default"), spec=PoolSpec(size=0, warm=0))], "1")
        sessions = [session(i, Phase.SUSPENDED) for i in range(suspended)]
        sessions += [session(suspended + i, Phase.QUEUED) for i in range(20)]
        world.sessions._cache.replace(sessions, "1")
        workers, metrics = Workers(b"k" * 32, "ns"), OperatorMetrics()
        recorder = Recorder(api, "ns")
        acts = Acts(api, "ns", world, workers, settings, Faults(False), lambda: None)
        state = PoolState("default", recorder, clock=lambda: 1000.0, unix=NOW.timestamp)
        state.spawn = lambda work: work.close()  # type: ignore[method-assign,assignment,return-value]
        keeper = Keeper(state, world, acts, metrics, settings)
        keeper.round(1000.0)
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            for _ in range(ROUNDS // 5):
                keeper.round(1000.0)
            best = min(best, (time.process_time() - began) / (ROUNDS // 5))
        await workers.close()
        return best


def test_a_round_costs_the_same_with_ten_thousand_suspended_sessions() -> None:
    few, many = asyncio.run(cost(100)), asyncio.run(cost(10_000))
    assert many < 2 * few, f"{few * 1e6:.0f} µs with 100, {many * 1e6:.0f} µs with 10,000"
    assert many < 0.05
