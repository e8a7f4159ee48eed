"""ClaudeSessions and ClaudePools as the seam shows them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from datetime import datetime
from typing import cast, get_args

from claude_crds.cache import Change
from claude_crds.names import session_name
from claude_crds.resources import READY_CONDITION, Desired
from claude_crds.views import ClaudePool, ClaudeSession, condition
from claude_router.sessions import ConversationKey, Phase, PoolStats, SessionView, Usage

_PHASES = frozenset(get_args(Phase))
_NAMES = re.compile(r"\bconv-[a-z0-9-]+")
"""Of conversations, and of what is theirs: they hold what clients chose as ids, and everybody may see the pool."""


def session_view(session: ClaudeSession, *, busy: bool) -> SessionView:
    """The conversation. `busy`: this router has a turn for it."""
    spec, status = session.spec, session.status
    created = _seconds(session.metadata.creation_timestamp)
    phase = _phase(session)
    return SessionView(
        key=ConversationKey(spec.tenant, spec.conversation_id),
        phase=phase,
        busy=busy and phase == "Ready",
        created=created,
        last_active=_seconds(status.last_active_time) or _seconds(spec.last_request_time) or created,
        turns=status.turns,
        usage=Usage(
            status.usage.input_tokens, status.usage.output_tokens, status.usage.cached_tokens, status.usage.cost_usd
        ),
        workspace=status.volume_claim_name,
        claude_session_id=status.claude_session_id,
        message=status.message,
    )


def _phase(session: ClaudeSession) -> Phase:
    if session.leaving:
        return "Suspending"
    if session.status.phase in _PHASES:
        return cast(Phase, session.status.phase)
    # None yet, or one that only a newer operator knows.
    return "Suspended" if session.spec.desired_state == Desired.SUSPENDED else "Queued"


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


def pool_stats(name: str, pool: ClaudePool | None) -> PoolStats:
    """The pool, as the operator last described it."""
    if pool is None:
        return PoolStats(0, 0, 0, 0, 0, 0, error=f"ClaudePool {name} does not exist", degraded=True)
    status = pool.status
    ready = condition(status.conditions, READY_CONDITION)
    error = (ready.message or ready.reason) if ready and ready.status == "False" else ""
    error = _NAMES.sub("conv-…", error)
    return PoolStats(
        size=pool.spec.size,
        live=status.live,
        busy=status.busy,
        warm=status.warm,
        suspended=status.suspended,
        queued=status.queued,
        error=error,
        degraded=bool(error),
    )


class Line:
    """Which sessions of each pool wait for a worker. A listener of the sessions' reflector."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[str]] = {}

    def changed(self, change: Change, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        """See `claude_crds.cache.Listener`. A session's pool never changes."""
        about = new or old
        assert about is not None
        waiting = self._waiting.setdefault(about.pool, set())
        if new is not None and new.status.phase == "Queued" and not new.leaving:
            waiting.add(about.name)
        else:
            waiting.discard(about.name)

    def others(self, session: ClaudeSession) -> bool:
        """Whether another one of the session's pool does."""
        waiting = self._waiting.get(session.pool, set())
        return len(waiting) > (session.name in waiting)


class Directory:
    """Names of the sessions by tenant, sorted: a page of a list costs the page. A listener of the sessions' reflector.

    Left out are sessions under a name that does not follow from tenant and id: no request finds those.
    """

    def __init__(self) -> None:
        self._names: dict[str | None, list[str]] = {}
        """Under None: those of all tenants."""

    def changed(self, change: Change, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        """See `claude_crds.cache.Listener`. A session's tenant and id never change."""
        about = new or old
        assert about is not None
        if change == "modified" or about.name != session_name(about.spec.tenant, about.spec.conversation_id):
            return
        for tenant in (about.spec.tenant, None):
            names = self._names.setdefault(tenant, [])
            if change == "added":
                insort(names, about.name)
                continue
            del names[bisect_left(names, about.name)]
            if not names:
                del self._names[tenant]

    def count(self, tenant: str) -> int:
        """How many there are of the tenant."""
        return len(self._names.get(tenant, ()))

    def page(self, tenant: str | None, *, limit: int, after: str) -> list[str]:
        """Up to `limit` names of the tenant (None: of all), those after the name `after`."""
        names = self._names.get(tenant, [])
        start = bisect_right(names, after)
        return names[start : start + limit]
