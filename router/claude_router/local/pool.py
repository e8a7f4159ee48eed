"""`Sessions` on one machine: hot workers, warm spares, eviction, suspension and resumption, all in worker processes."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from claude_operator.decide import WorkerState
from claude_router.local.live import Wanted
from claude_router.local.process import START_SECONDS
from claude_router.local.reconcile import Reconciler
from claude_router.local.store import Store
from claude_router.local.tips import LocalTips
from claude_router.local.workers import FAILURES_IN_A_ROW, Launch, Workers
from claude_router.sessions import (
    ConversationKey,
    Lease,
    Phase,
    PoolExhausted,
    PoolStats,
    SessionFailed,
    SessionView,
    Usage,
    taken,
)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Most live workers and the spares inside that; seconds idle until suspended (0: never), and for a turn to end."""

    size: int
    warm: int
    idle_timeout: float
    grace: float


class LocalSessions:
    """See `claude_router.sessions.Sessions`. Made, begun and closed on one event loop."""

    def __init__(
        self,
        store: Store,
        launch: Launch,
        limits: PoolLimits,
        *,
        clock: Callable[[], float] | None = None,
        shares: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._store = store
        self._limits = limits
        self._tips = LocalTips(store)
        self._workers = Workers(store, launch, clock or asyncio.get_running_loop().time)
        self._reconciler = Reconciler(
            self._workers, size=limits.size, warm=limits.warm, idle_timeout=limits.idle_timeout, shares=shares
        )
        self._loop: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the warm spares, and serve."""
        self._loop = asyncio.get_running_loop().create_task(self._reconciler.run())

    async def close(self, grace: float) -> None:
        """Suspend every conversation: running turns have `grace` seconds to end. No worker is left after it."""
        self.refuse()
        await asyncio.gather(*(self._workers.end(live, grace) for live in self._workers.live.values()))
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        await self._workers.close()
        await self._store.flush()

    def refuse(self) -> None:
        """Lend and start nothing any more; requests that wait are told so."""
        self._reconciler.stopped = True
        for wanted in self._workers.wanted.values():
            wanted.answer(PoolExhausted("the server is shutting down"))

    def kill(self) -> None:
        """SIGKILL every worker at once; `close` then returns soon."""
        self.refuse()
        for live in self._workers.live.values():
            live.process.kill()

    # -- Sessions ------------------------------------------------------------------------------------------------

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        """See Sessions."""
        if self._reconciler.stopped:
            raise PoolExhausted("the server is shutting down")
        if not self._may_be(key):
            raise taken()
        wanted = self._want(key)
        now = self._workers.clock()
        if wanted.purging is None and wanted.worker and wanted.worker.lendable():
            return wanted.worker.lend(now)
        if wanted.failures >= FAILURES_IN_A_ROW and now < wanted.not_before:
            raise SessionFailed(self._workers.explain(wanted))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Lease] = loop.create_future()
        wanted.waiters[future] = now
        self._workers.bell.set()
        try:
            await asyncio.wait([future], timeout=max(0.0, deadline - loop.time()))
            if not future.done() and wanted.worker is not None and not wanted.worker.leaving:
                # The deadline is for room in the pool. This one has it, and its worker is on the way.
                await asyncio.wait([future], timeout=START_SECONDS)
            if not future.done():
                raise PoolExhausted(self._why_not(wanted))
            return future.result()
        finally:
            wanted.waiters.pop(future, None)
            if future.done() and not future.cancelled():
                future.exception()  # retrieved, should this request have been cancelled at the same moment
            self._workers.bell.set()

    def gone(self, key: ConversationKey, lease: Lease) -> None:
        """See Sessions."""
        wanted = self._workers.wanted.get(key.name)
        live = wanted.worker if wanted else None
        if live and live.process.token == lease.token and not live.suspect and not live.leaving:
            live.suspect = True
            self._workers.task(self._workers.verify(live))

    def crowded(self, key: ConversationKey) -> bool:
        """See Sessions."""
        line, own = self._reconciler.positions, self._reconciler.at_limit
        return any(name != key.name and name not in own for name in line)

    def count(self, tenant: str, also: Collection[str] = ()) -> int:
        """See Sessions."""
        new = {w.name for w in self._workers.wanted.values() if w.key.tenant == tenant and self._attended(w)}
        new.update(also)
        return len(self._store.names(tenant)) + sum(name not in self._store.records for name in new)

    async def list(self, tenant: str | None, *, limit: int, after: str = "") -> Sequence[SessionView]:
        """See Sessions. Costs the page, not the number of conversations."""
        known = self._store.names(tenant)
        page = known[(start := bisect_right(known, after)) : start + limit]
        new = (
            w.name
            for w in self._workers.wanted.values()
            if tenant in (None, w.key.tenant)
            and w.name > after
            and w.name not in self._store.records
            and self._attended(w)
        )
        views = (self._view(name) for name in heapq.nsmallest(limit, [*page, *new]))
        return [v for v in views if v is not None]

    async def get(self, key: ConversationKey) -> SessionView | None:
        """See Sessions."""
        return self._view(key.name) if self._may_be(key) else None

    async def suspend(self, key: ConversationKey) -> bool:
        """See Sessions."""
        if not self._may_be(key):
            return False
        wanted = self._workers.wanted.get(key.name)
        live = wanted.worker if wanted else None
        if wanted is None or live is None:
            return self._known(key.name)
        wanted.suspend_requested = True
        self._workers.bell.set()
        try:
            async with asyncio.timeout(self._limits.grace):
                await live.gone.wait()
        except TimeoutError:
            if wanted.worker is live:
                await self._workers.end(live, 0)
        return True

    async def purge(self, key: ConversationKey) -> bool:
        """See Sessions. Raises OSError when the record cannot be deleted."""
        if not (self._known(key.name) and self._may_be(key)):
            return False
        wanted = self._want(key)
        if wanted.purging is None:
            wanted.purging = self._workers.task(self._purge(wanted))
        # Shielded: a client that leaves must not leave half a conversation behind.
        await asyncio.shield(wanted.purging)
        return True

    def note_tip(self, key: ConversationKey, tip: str) -> None:
        """See Sessions."""
        if self._tips.note(key, tip):
            # Now, and not seconds later: without it, a client that comes back after a crash would begin anew.
            self._workers.task(self._store.flush())

    def find_by_tip(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        """See Sessions."""
        return self._tips.find(tenant, tips)

    async def stats(self) -> PoolStats:
        """See Sessions."""
        workers, now = self._workers, self._workers.clock()
        live = workers.live.values()
        held = sum(1 for w in live if w.session in self._store.records)
        return PoolStats(
            size=self._limits.size,
            live=len(live),
            busy=sum(1 for w in live if w.busy(now)),
            warm=sum(1 for w in live if w.session is None and not w.leaving),
            suspended=len(self._store.records) - held,
            queued=sum(1 for w in workers.wanted.values() if w.waits() and w.worker is None),
            cli_version=workers.cli_version,
            error=workers.error,
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    def _want(self, key: ConversationKey) -> Wanted:
        wanted = self._workers.wanted.get(key.name)
        if wanted is None or wanted.key != key:  # of what is left of another, nothing is needed: see `_may_be`
            wanted = self._workers.wanted[key.name] = Wanted(key, key.name)
        return wanted

    def _may_be(self, key: ConversationKey) -> bool:
        """Whether no other conversation has the name that follows from this one's tenant and id."""
        if record := self._store.records.get(key.name):
            return record.key == key
        wanted = self._workers.wanted.get(key.name)
        return wanted is None or wanted.key == key or not (self._attended(wanted) or wanted.purging)

    @staticmethod
    def _attended(wanted: Wanted) -> bool:
        return bool(wanted.waiters) or wanted.worker is not None

    def _known(self, name: str) -> bool:
        wanted = self._workers.wanted.get(name)
        return name in self._store.records or (wanted is not None and self._attended(wanted))

    async def _purge(self, wanted: Wanted) -> None:
        try:
            if wanted.worker:
                await self._workers.end(wanted.worker, 0)
            if wanted.name in self._store.records:
                self._tips.forget(wanted.name)
                await self._store.remove(wanted.name)
            wanted.failures, wanted.not_before = 0, 0.0
        finally:
            wanted.purging = None

    def _why_not(self, wanted: Wanted) -> str:
        if wanted.worker is not None:
            return "its worker is still on the way"
        if wanted.error:
            return f"its worker could not be started: {wanted.error}"
        position = self._reconciler.positions.get(wanted.name)
        place = f"; it was number {position} in the line" if position else ""
        if wanted.name in self._reconciler.at_limit:
            return f"all workers that its team may have are busy{place}"
        return f"all {self._limits.size} workers are busy{place}"

    def _view(self, name: str) -> SessionView | None:
        if not self._known(name):
            return None
        record, wanted = self._store.records.get(name), self._workers.wanted.get(name)
        key = record.key if record else wanted.key if wanted else None
        assert key is not None, "known means that one of them is there"
        now = self._workers.clock()
        live = wanted.worker if wanted else None
        phase, message = self._phase(wanted)
        return SessionView(
            key=key,
            phase=phase,
            busy=live is not None and live.busy(now),
            created=record.created if record else wanted.asked if wanted else 0.0,
            last_active=record.last_active if record else wanted.asked if wanted else 0.0,
            turns=record.turns if record else 0,
            usage=record.usage if record else Usage(),
            workspace=str(self._store.volumes.at(record.volume, record.workspace).workspace) if record else "",
            claude_session_id=record.claude_session_id if record else "",
            message=message,
        )

    def _phase(self, wanted: Wanted | None) -> tuple[Phase, str]:
        if wanted is None:
            return "Suspended", ""
        if (live := wanted.worker) is not None:
            if live.leaving:
                return "Suspending", ""
            ready = live.state is WorkerState.READY and live.bound
            return ("Ready" if ready else "Starting"), wanted.error
        if wanted.waits():
            position = self._reconciler.positions.get(wanted.name)
            place = f"number {position} in the line for a worker" if position else ""
            return "Queued", wanted.error or place
        return ("Failed", wanted.error) if wanted.failures else ("Suspended", "")
