"""What the operator remembers of a session that is asked for or has a worker: since when it waits, and what failed.

All of it can be lost: another operator finds it out again from the session's status, or starts without back-off.
"""

from __future__ import annotations

from dataclasses import dataclass

from claude_crds import asks
from claude_crds.resources import Desired, Phase
from claude_crds.views import ClaudeSession
from claude_operator.decide import Session
from claude_operator.trouble import Trouble

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
FORGET_SECONDS = 300.0
"""A failure this long after the one before counts as a first one."""


@dataclass(slots=True, eq=False)
class Note:
    """Times are on the operator's clock, except where a parameter says Unix time."""

    generation: int = 0
    renewed_at: float = 0.0
    waiting_since: float | None = None
    revive: bool = False
    """Its worker was lost: it gets another without being asked."""
    failures: int = 0
    failed_at: float = 0.0
    not_before: float = 0.0
    trouble: Trouble | None = None
    writing: bool = False
    written_at: float = 0.0
    retry_at: float = 0.0
    restarts: int = 0

    def look(self, session: ClaudeSession, now: float, unix: float) -> None:
        """Take in the session as it is now."""
        if session.metadata.generation != self.generation:
            self.generation = session.metadata.generation
            self.renewed_at = now
        self.restarts = max(self.restarts, session.status.restarts)
        if not self._waits(session, now, unix):
            self.waiting_since = None
        elif self.waiting_since is None:
            told = session.status.waiting_since
            self.waiting_since = now - max(0.0, unix - told.timestamp()) if told else now

    def _waits(self, session: ClaudeSession, now: float, unix: float) -> bool:
        if session.leaving:
            return False
        if self.revive and session.spec.desired_state == Desired.RUNNING:
            return True
        return asks.asked(session, unix) and now < self.renewed_at + asks.LAPSE_SECONDS

    def fail(self, trouble: Trouble, now: float) -> None:
        """A start of it failed: the next one has to wait, longer each time."""
        if now - self.failed_at > FORGET_SECONDS:
            self.failures = 0
        self.failures += 1
        self.failed_at = now
        self.not_before = now + backoff(self.failures)
        self.trouble = trouble
        self.revive = False

    def succeed(self) -> None:
        """It has a worker that takes turns."""
        self.revive = False
        self.trouble = None
        self.waiting_since = None

    def view(self, session: ClaudeSession, *, fresh: bool) -> Session:
        """As `decide` sees it."""
        suspend = session.spec.desired_state == Desired.SUSPENDED
        return Session(session.name, self.waiting_since, fresh, suspend, self.not_before, session.spec.team)

    def lapses(self, now: float) -> float | None:
        """When its wait ends if nobody renews it; None if it does not wait."""
        return self.renewed_at + asks.LAPSE_SECONDS if self.waiting_since is not None and not self.revive else None


def backoff(failures: int) -> float:
    """Seconds until the next start after so many failures in a row."""
    longest: float = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest


_ATTENDED = frozenset({Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.SUSPENDING, Phase.FAILED})


def attended(session: ClaudeSession) -> bool:
    """Whether a session may need something: all but those that are suspended, and not asked for."""
    if session.leaving or session.status.phase in _ATTENDED or not session.status.phase:
        return True
    return asks.is_open(session)
