"""The pool's state: live workers, and conversations that need attention; and how `decide` sees both."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from claude_operator.decide import Session, Worker, WorkerState
from claude_router.local.process import WorkerProcess, WorkerStatus
from claude_router.local.volumes import Volume
from claude_router.sessions import ConversationKey, Lease

HOLD_SECONDS = 2.0
"""How long a worker counts as busy on the pool's word alone: from a lease, or its refusal to drain, to its own word."""

PROVEN_SECONDS = 5.0
"""A CLI that cannot start has ended by then, counted from when its worker listens; it takes 0.4 s, loaded 2.4 s."""


@dataclass(slots=True, eq=False)
class Live:
    """A worker process, from the decision to start it until it is reaped. Times on the pool's clock."""

    process: WorkerProcess
    volume: Volume
    session: str | None
    started: float
    last_active: float
    state: WorkerState = WorkerState.STARTING
    bound: bool = False
    """The conversation's record is on disk, so the worker may be lent."""
    suspect: bool = False
    """It refused a turn or did not answer: not lent before it has been asked how it is."""
    proven: bool = False
    """It has been well once: its end is no failed start."""
    reaping: bool = False
    binding: asyncio.Task[None] | None = None
    held_until: float = 0.0
    seen: WorkerStatus | None = None
    first_turns: int | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def leaving(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.TERMINATING)

    def answers(self) -> bool:
        """Whether it has said that it would take a turn."""
        status = self.process.status
        return self.state is WorkerState.READY and status is not None and status.phase in ("warm", "bound")

    def lendable(self) -> bool:
        """Whether a turn may be sent to it now."""
        return self.answers() and self.bound and not self.suspect and self.process.alive

    def lend(self, now: float) -> Lease:
        """A lease on it. Until the turn has arrived there it counts as busy, or it would be evicted on its way."""
        assert self.session is not None
        self.last_active = now
        self.held_until = now + HOLD_SECONDS
        return Lease(self.session, self.process.endpoint, self.process.token)

    def busy(self, now: float) -> bool:
        status = self.process.status
        return now < self.held_until or (status is not None and status.busy)

    def observe(self, now: float) -> bool:
        """Take in the newest status; whether there was one."""
        status = self.process.status
        if status is None or status is self.seen:
            return False
        if status.busy or (self.seen is not None and status.turns > self.seen.turns):
            self.held_until = 0.0
        self.seen = status
        if self.first_turns is None:
            self.first_turns = status.turns
        # The worker's times are on the wall clock; only their distance from now is used.
        self.last_active = max(self.last_active, now - max(0.0, time.time() - status.last_active))
        return True

    def well(self, now: float) -> bool:
        """Whether it has served a turn, or lived long enough to have booted its CLI."""
        served = self.seen is not None and self.first_turns is not None and self.seen.turns > self.first_turns
        return self.state is WorkerState.READY and (served or now >= self.started + PROVEN_SECONDS)

    def view(self, now: float) -> Worker:
        status = self.process.status
        parked = now >= self.held_until and status is not None and status.parked
        return Worker(self.name, self.state, self.session, self.busy(now), self.last_active, parked=parked)


@dataclass(slots=True, eq=False)
class Wanted:
    """A conversation that someone waits for, that has a worker, or whose last starts failed."""

    key: ConversationKey
    name: str
    waiters: dict[asyncio.Future[Lease], float] = field(default_factory=dict)
    asked: float = field(default_factory=time.time)
    worker: Live | None = None
    suspend_requested: bool = False
    purging: asyncio.Task[None] | None = None
    failures: int = 0
    not_before: float = 0.0
    error: str = ""

    def waits(self) -> bool:
        """Whether a request waits and may be served."""
        return bool(self.waiters) and self.purging is None

    def idle(self, now: float, forget_after: float) -> bool:
        """Whether nothing is left to remember of it here."""
        attached = self.waiters or self.worker or self.purging or self.suspend_requested
        return not attached and now > self.not_before + forget_after * bool(self.failures)

    def view(self, *, fresh: bool) -> Session:
        since = min(self.waiters.values()) if self.waits() else None
        return Session(self.name, since, fresh, self.suspend_requested, self.not_before, self.key.tenant)

    def answer(self, result: Lease | Exception) -> None:
        """Wake everyone who waits, at once."""
        for future in self.waiters:
            if not future.done():
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self.waiters.clear()
