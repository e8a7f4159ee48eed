"""A term of leadership: fresh reflectors, a keeper for each pool, the sweep; all of it ends with the term."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from claude_crds.api import Api
from claude_operator.acts import Acts
from claude_operator.egress_writer import EgressWriter
from claude_operator.faults import Faults
from claude_operator.keeper import Keeper
from claude_operator.metrics import OperatorMetrics
from claude_operator.recorder import Recorder
from claude_operator.settings import OperatorSettings
from claude_operator.state import PoolState
from claude_operator.sweep import INTERVAL_SECONDS, sweep
from claude_operator.teams import TeamWriter
from claude_operator.workers import Workers
from claude_operator.world import World

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
STUCK_SECONDS = 60.0


class Term:
    """`begin`, then `end`. `check` raises when this replica may not write any more."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        settings: OperatorSettings,
        key: bytes,
        metrics: OperatorMetrics,
        check: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._keepers: dict[str, Keeper] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = False
        self._rang: set[str] = set()
        self.world = World(api, namespace, self.ring, resync=settings.resync)
        self._workers = Workers(key, namespace)
        self._recorder = Recorder(api, namespace)
        self._teams = TeamWriter(api, namespace, self.world, self._recorder, metrics, check)
        self._egress = EgressWriter(api, namespace, self.world, check, settings) if settings.egress_proxies else None
        self._acts = Acts(api, namespace, self.world, self._workers, settings, Faults(settings.fault_points), check)

    async def begin(self) -> None:
        """List everything, then look after every pool."""
        self._tasks.append(asyncio.create_task(self._recorder.run()))
        await self.world.begin()
        self._begun = True
        for pool in sorted(self._rang):
            self.ring(pool)
        self._tasks.append(asyncio.create_task(self._teams.run(), name="team statuses"))
        self._tasks.append(asyncio.create_task(self._teams.keys.run(), name="teams' keys"))
        if self._egress is not None:
            self._tasks.append(asyncio.create_task(self._egress.run(), name="egress lists"))
        self._tasks.append(asyncio.create_task(self._sweep()))
        log.info("looking after %d pools", len(self._keepers))

    async def end(self) -> None:
        """Stop at once: another operator goes on from what the cluster holds."""
        self._begun = False
        await self._recorder.flush(FLUSH_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(keeper.end() for keeper in self._keepers.values()))
        await self.world.end()
        await self._workers.close()

    def ring(self, pool: str) -> None:
        """Something of this pool has changed."""
        if not self._begun:
            self._rang.add(pool)
            return
        keeper = self._keepers.get(pool)
        if keeper is None:
            state = PoolState(pool, self._recorder)
            keeper = self._keepers[pool] = Keeper(state, self.world, self._acts, self._metrics, self._settings)
            self._tasks.append(asyncio.create_task(keeper.run(), name=f"keeper {pool}"))
        keeper.state.bell.set()

    def problem(self) -> str:
        """Why this term makes no progress; empty while it does."""
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended:
            return f"ended: {', '.join(ended)}"
        now = time.monotonic()
        for name, keeper in self._keepers.items():
            # A bell that has rung long ago and was not heard: the keeper hangs.
            if keeper.state.bell.is_set() and now - keeper.last_round > STUCK_SECONDS:
                return f"the keeper of pool {name} has not looked for {now - keeper.last_round:.0f} s"
        told = [r for r in self.world.reflectors if not r.problem]
        if any(now - r.last_event > 2 * STUCK_SECONDS for r in told):
            return "a reflector neither hears the API server nor says why"
        latest = 2 * self._settings.resync + 2 * STUCK_SECONDS
        if any(r.last_sync is not None and now - r.last_sync > latest for r in told):
            return "a reflector has not listed its objects anew for too long"
        return ""

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await sweep(self.world, self._acts, time.time())
            except Exception:
                log.exception("a sweep failed")
                self._metrics.errors.labels("sweep").inc()
