"""Which ClaudeSession a request without an id continues (see `claude_router.tips`), and the annotation that says so.

The annotation is the truth, and each router has an index over all of them. What this router has noted counts here at
once and is written behind the turn. A write replaces the whole annotation, so it is made on the version that was read:
when another router was faster, it is done again on what that one has written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from claude_crds.access import AccessError
from claude_crds.cache import Change
from claude_crds.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from claude_crds.names import session_name
from claude_crds.resources import SESSIONS, TIPS_ANNOTATION
from claude_crds.views import ClaudeSession
from claude_router.cluster.pursuit import Cluster
from claude_router.sessions import ConversationKey
from claude_router.tips import MOST_TIPS, TipIndex, entries, holds, merged

log = logging.getLogger(__name__)

_MOST_PENDING = 4096
"""Sessions whose tips are still to be written; while the API server is away for long, the oldest are given up."""
_WRITES_AT_ONCE = 4


class ClusterTips:
    """The index, and the writing of what is new. A listener of the sessions' reflector."""

    def __init__(self, cluster: Cluster, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        self._cluster = cluster
        self._spawn = spawn
        self._index = TipIndex()
        self._pending: dict[str, dict[str, bool]] = {}
        """Session → tips that its annotation, as far as we know, does not have yet."""
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_WRITES_AT_ONCE)

    def changed(self, change: Change, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        """See `claude_crds.cache.Listener`."""
        if new is None:
            assert old is not None
            self._pending.pop(old.name, None)
            self._index.drop(old.name)
        elif new.name in self._pending or new.tips != self._index.tips(new.name):
            if holds(new.tips, self._pending.get(new.name, {})):
                self._pending.pop(new.name, None)
            self._take(new)

    def _take(self, session: ClaudeSession) -> None:
        spec = session.spec
        if session.name != session_name(spec.tenant, spec.conversation_id):
            return  # no request reaches it
        self._index.put(spec.tenant, session.name, merged(session.tips, self._pending.get(session.name, {})))

    def note(self, key: ConversationKey, tip: str) -> None:
        """See `claude_router.sessions.Sessions.note_tip`."""
        session = self._cluster.sessions.get(key.name)
        if session is None or session.leaving or tip in entries(self._index.tips(key.name)):
            return
        spoiled = self._index.known(key.tenant, tip)
        other = self._cluster.sessions.get(self._index.find(key.tenant, [tip]))
        if other is not None:
            self._add(other, tip, spoiled=True)
        self._add(session, tip, spoiled=spoiled)

    def find(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        """See `claude_router.sessions.Sessions.find_by_tip`."""
        session = self._cluster.sessions.get(self._index.find(tenant, tips))
        if session is None or session.leaving:
            return None
        return ConversationKey(session.spec.tenant, session.spec.conversation_id)

    async def settle(self, seconds: float) -> None:
        """Return when all is written, or after that time."""
        if self._writing:
            await asyncio.wait(self._writing.values(), timeout=seconds)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _add(self, session: ClaudeSession, tip: str, *, spoiled: bool) -> None:
        name = session.name
        if name not in self._pending and len(self._pending) >= _MOST_PENDING:
            self._pending.pop(next(iter(self._pending)))
        wanted = self._pending.setdefault(name, {})
        wanted[tip] = spoiled
        if len(wanted) > MOST_TIPS:
            del wanted[next(iter(wanted))]
        self._take(session)
        if name not in self._writing:
            self._writing[name] = self._spawn(self._write(name))

    async def _write(self, name: str) -> None:
        """Until the annotation has all that is pending, or the session is gone."""
        failures = 0
        try:
            async with self._room:
                while await self._step(name, failures):
                    failures += 1
                    await asyncio.sleep(self._cluster.backoff(failures))
                    # Our copy may be the older one; the answer is learned.
                    with contextlib.suppress(ApiError, AccessError):
                        await self._cluster.get(name)
        finally:
            # Nothing is awaited between the last look at what is pending and this.
            del self._writing[name]

    async def _step(self, name: str, failures: int) -> bool:
        """One write; whether it has to be tried again."""
        session = self._cluster.sessions.get(name)
        wanted = self._pending.get(name)
        if session is None or not wanted or holds(session.tips, wanted):
            return False
        patch = {"metadata": {"annotations": {TIPS_ANNOTATION: merged(session.tips, wanted)}}}
        meta = session.metadata
        try:
            written = await self._cluster.call(
                self._cluster.api.patch(
                    SESSIONS, self._cluster.namespace, name, patch, resource_version=meta.resource_version, uid=meta.uid
                )
            )
        except NotFound:
            return False
        except Conflict:
            return True
        except (ApiError, AccessError) as error:
            level = logging.DEBUG if failures else logging.WARNING
            fields = {"conversation": name, "reason": str(error)}
            log.log(level, "a conversation's tips cannot be written", extra={"fields": fields})
            return not isinstance(error, Invalid | Forbidden)
        return not holds(written.tips, self._pending.get(name, {}))
