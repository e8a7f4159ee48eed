"""The seam between the HTTP side and whatever holds the workers: a cluster's resources, or processes on one machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from claude_crds.git import GitSource
from claude_crds.names import session_name

LOCAL_TENANT = "default"
"""Tenant of every request while there are no teams."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a new conversation's workspace begins, if not as others do here: a clone of `git`, or, without it, empty."""

    git: GitSource | None = None


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """Who a conversation belongs to, and the id that the client gave it."""

    tenant: str
    id: str
    begins: Beginning | None = field(default=None, compare=False)
    """Should there be none yet; whatever it says, it is the same conversation."""

    @property
    def name(self) -> str:
        """The session's object name (see `claude_crds.names`). That it is the session's is not enough: see `taken`."""
        return session_name(self.tenant, self.id)


def taken() -> SessionFailed:
    """Another conversation has the name that follows from this one's tenant and id. Nobody hears more of it."""
    return SessionFailed("this id cannot be used here; choose another one")


@dataclass(frozen=True, slots=True)
class Lease:
    """A live worker for one conversation: where to send the turn, and with which bearer token."""

    name: str
    endpoint: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of a conversation so far. `input_tokens` includes the cached ones."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0


Phase = Literal["Queued", "Starting", "Ready", "Suspending", "Suspended", "Failed"]


@dataclass(frozen=True, slots=True)
class SessionView:
    """One conversation as `GET /conversations` shows it. Times are Unix seconds."""

    key: ConversationKey
    phase: Phase
    busy: bool
    created: float
    last_active: float
    turns: int
    usage: Usage
    workspace: str = ""
    claude_session_id: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool at this moment. `error` is why no worker can start, or empty.

    `degraded`: in spite of it, conversations that have one go on.
    """

    size: int
    live: int
    busy: int
    warm: int
    suspended: int
    queued: int
    cli_version: str = ""
    error: str = ""
    degraded: bool = False


class PoolExhausted(Exception):
    """No worker became free before the deadline: why, and what could be done about it."""

    def __init__(self, reason: str = "", *, advice: str = "Try again later, or raise POOL_SIZE or QUEUE_TIMEOUT_MS."):
        super().__init__(reason or "all are busy")
        self.advice = advice


class Unreachable(PoolExhausted):
    """Whoever could give a worker cannot be asked for one at this moment; the message says who and why."""


class SessionFailed(Exception):
    """The conversation's worker cannot be started; the message says why and what to do."""


class Sessions(Protocol):
    """Conversations by key. Every method is safe to call from many requests at once."""

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        """The conversation's live worker: starts, claims, resumes or queues for one.

        `deadline` is on the event loop's clock. Raises PoolExhausted past it, SessionFailed when it is hopeless.
        """
        ...

    def gone(self, key: ConversationKey, lease: Lease) -> None:
        """The worker of this lease refused before a turn began, or did not answer: the next acquire finds another."""
        ...

    def crowded(self, key: ConversationKey) -> bool:
        """Whether another conversation waits for the room that this one's worker takes."""
        ...

    async def list(self, tenant: str | None, *, limit: int, after: str = "") -> Sequence[SessionView]:
        """Up to `limit` conversations of the tenant in order of object name, those after the name `after`.

        None: of all tenants.
        """
        ...

    def count(self, tenant: str, also: Collection[str] = ()) -> int:
        """How many conversations the tenant has, together with those of these object names that are not there."""
        ...

    async def get(self, key: ConversationKey) -> SessionView | None:
        """One conversation, or None when unknown."""
        ...

    async def suspend(self, key: ConversationKey) -> bool:
        """Stop the worker (a running turn ends first, bounded), keep memory and files. False when unknown."""
        ...

    async def purge(self, key: ConversationKey) -> bool:
        """Remove worker, memory and own workspace. False when unknown."""
        ...

    def note_tip(self, key: ConversationKey, tip: str) -> None:
        """An answer of the conversation ended with this tip; kept behind the caller's back. Unknown ones are ignored.

        To be called for every answer of a conversation whose id was generated, and for no other.
        """
        ...

    def find_by_tip(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        """The conversation that the longest known of these histories leads to, if exactly one; else None.

        `tips` are in the order of one history, the shortest first. See `claude_router.tips`.
        """
        ...

    async def stats(self) -> PoolStats:
        """The pool at this moment."""
        ...
