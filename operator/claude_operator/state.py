"""A pool as its keeper knows it, between one round and the next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from claude_crds.access import AccessError
from claude_crds.errors import ApiError
from claude_operator.lease import NotLeading
from claude_operator.notes import Note, backoff
from claude_operator.recorder import Recorder
from claude_operator.shares import Turns
from claude_operator.slots import Slot
from claude_operator.trouble import Trouble

log = logging.getLogger(__name__)


@dataclass(eq=False)
class PoolState:
    """Times are on `clock`, the operator's own; `unix` tells the world's."""

    name: str
    recorder: Recorder
    clock: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    slots: dict[str, Slot] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    at_limit: set[str] = field(default_factory=set)
    """Of those, who waits for the own team's limit: the position is one among its team."""
    turns: Turns = field(default_factory=Turns)
    trouble: Trouble | None = None
    """Why workers of this pool cannot be started, as far as is known."""
    healthy_at: float = 0.0
    """When one of them was last seen to start."""
    warm_failures: int = 0
    warm_not_before: float = 0.0
    paused_until: float = 0.0
    """The API server did not answer: nothing is decided before this time."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside the rounds; the bell rings when it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.bell.set()
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self.pause(self.clock(), 1.0)
        if isinstance(error, ApiError | AccessError | NotLeading):
            log.warning("a write failed: %s", error, extra={"fields": {"pool": self.name}})
        else:
            log.error("unforeseen", exc_info=error, extra={"fields": {"pool": self.name}})

    def slot_of(self, session: str) -> Slot | None:
        """The session's worker; of two, the one that stays."""
        found = [s for s in self.slots.values() if s.session == session]
        return min(found, key=lambda s: (s.leaving, s.since), default=None)

    def note(self, session: str) -> Note:
        return self.notes.setdefault(session, Note())

    def failed_to_start(self, trouble: Trouble, session: str | None, now: float, *, pool_wide: bool) -> None:
        """A worker could not be started: back off, and say why."""
        if session is not None:
            self.note(session).fail(trouble, now)
        else:
            self.warm_failures += 1
            self.warm_not_before = now + backoff(self.warm_failures)
        if pool_wide:
            self.trouble = trouble

    def recovered(self, now: float) -> None:
        """What kept workers from getting ready is over, as one that has shows."""
        self.healthy_at = now
        self.trouble = None
        self.warm_failures = 0
        self.warm_not_before = min(self.warm_not_before, now)

    def pause(self, now: float, seconds: float) -> None:
        self.paused_until = max(self.paused_until, now + seconds)
