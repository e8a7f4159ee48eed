"""Which worker a turn is sent to, by what the copy of the session says: no API call, whatever the API server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from claude_crds.reflector import Reflector
from claude_crds.resources import Phase
from claude_crds.tokens import worker_token
from claude_crds.views import ClaudeSession
from claude_router.sessions import ConversationKey, Lease

SUSPECT_SECONDS = 1.0
"""How long a worker that refused is not lent again: until then its session says what has become of it, or nothing has.
A worker that refuses again and again is asked about once in this time."""

_MOST_SUSPECTS = 4096


def is_of(session: ClaudeSession, key: ConversationKey) -> bool:
    """Whether the session is this conversation's, whose name it has."""
    return session.spec.conversation_id == key.id and session.spec.tenant == key.tenant


class Leases:
    """Workers of Ready sessions, except those that have just refused."""

    def __init__(
        self,
        sessions: Reflector[ClaudeSession],
        namespace: str,
        key: bytes,
        *,
        suspect_seconds: float = SUSPECT_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._sessions = sessions
        self._namespace = namespace
        self._key = key
        self._suspect_seconds = suspect_seconds
        self._clock = clock or asyncio.get_running_loop().time
        self._suspects: dict[str, tuple[str, float]] = {}
        """Session → token of the pod that refused, and until when that counts."""

    def lend(self, key: ConversationKey) -> Lease | None:
        """The session's worker, if it takes turns."""
        name = key.name
        session = self._sessions.get(name)
        if (
            session is None
            or not is_of(session, key)
            or session.status.phase != Phase.READY
            or session.leaving
            or not session.status.endpoint
        ):
            return None
        lease = self._of(session)
        suspect = self._suspects.get(name)
        if suspect is not None and self._clock() < suspect[1] and lease.token == suspect[0]:
            return None
        return lease

    def suspect(self, lease: Lease) -> None:
        """It refused."""
        now = self._clock()
        self._suspects.pop(lease.name, None)  # so that the oldest are in front
        self._suspects[lease.name] = (lease.token, now + self._suspect_seconds)
        while self._suspects:
            oldest = next(iter(self._suspects))
            if self._suspects[oldest][1] > now and len(self._suspects) <= _MOST_SUSPECTS:
                break
            del self._suspects[oldest]

    def suspected(self, name: str) -> float:
        """For how many seconds yet the session's worker is not lent although it is Ready; 0: it is."""
        suspect = self._suspects.get(name)
        return max(0.0, suspect[1] - self._clock()) if suspect else 0.0

    def still(self, lease: Lease) -> bool:
        """Whether by the copy this is the session's worker, and Ready."""
        session = self._sessions.get(lease.name)
        return session is not None and session.status.phase == Phase.READY and self._of(session).token == lease.token

    def _of(self, session: ClaudeSession) -> Lease:
        token = worker_token(self._key, self._namespace, session.status.pod_name)
        return Lease(session.name, session.status.endpoint, token)
