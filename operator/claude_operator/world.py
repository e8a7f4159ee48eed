"""The operator's view of its namespace: five reflectors, and the bells they ring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from claude_crds.api import Api
from claude_crds.reflector import Reflector
from claude_crds.resources import (
    CLAIMS,
    PODS,
    POOL_LABEL,
    POOLS,
    SESSION_LABEL,
    SESSION_UID_LABEL,
    SESSIONS,
    TEAMS,
    WORKERS_SELECTOR,
)
from claude_crds.views import ClaudePool, ClaudeSession, ClaudeTeam, Object, PersistentVolumeClaim, Pod
from claude_operator.notes import attended
from claude_operator.optional import OptionalReflector

BY_POOL = "pool"
BY_SESSION = "session"
BY_TEAM = "team"
ATTENDED = "attended"
"""Sessions of a pool that may need something; the suspended ones, most of all, cost nothing here."""


class World:
    """Made anew by each term of leadership, so that its first word is a fresh LIST."""

    def __init__(self, api: Api, namespace: str, ring: Callable[[str], None], *, resync: float) -> None:
        self._ring = ring
        self.sessions = Reflector(
            api,
            SESSIONS,
            namespace,
            indexes={
                BY_POOL: lambda s: [s.pool],
                BY_TEAM: lambda s: [s.spec.team] if s.spec.team else [],
                ATTENDED: lambda s: [s.pool] if attended(s) else [],
            },
            resync=resync,
        )
        self.pools = Reflector(api, POOLS, namespace, resync=resync)
        self.teams = OptionalReflector(api, TEAMS, namespace, resync=resync)
        self.pods = Reflector(
            api,
            PODS,
            namespace,
            label_selector=WORKERS_SELECTOR,
            indexes={BY_POOL: _pool_of},
            resync=resync,
        )
        self.claims = Reflector(
            api,
            CLAIMS,
            namespace,  # all of them: one that was restored from a backup, or is a user's own, may have no labels
            indexes={BY_POOL: _pool_of, BY_SESSION: _session_of},
            resync=resync,
        )
        self.sessions.listen(lambda _, old, new: self._session_changed(old, new))
        self.pools.listen(lambda _, old, new: self._rang(old, new, lambda p: [p.name]))
        self.pods.listen(lambda _, old, new: self._rang(old, new, _pool_of))
        self.claims.listen(lambda _, old, new: self._rang(old, new, _pool_of))
        self.teams.listen(lambda _, old, new: self._teams_changed(old, new))
        self._shares: dict[str, int] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def reflectors(
        self,
    ) -> tuple[
        Reflector[ClaudeSession],
        Reflector[ClaudePool],
        Reflector[Pod],
        Reflector[PersistentVolumeClaim],
        Reflector[ClaudeTeam],
    ]:
        return self.sessions, self.pools, self.pods, self.claims, self.teams

    @property
    def shares(self) -> dict[str, int]:
        """Most live workers in a pool, by team; a team that is not in it has no limit."""
        if self._shares is None:
            teams = self.teams.items()
            self._shares = {t.name: t.spec.max_live for t in teams if t.spec.max_live is not None}
        return self._shares

    async def begin(self) -> None:
        """Follow all five; returns when each has been listed."""
        self._tasks = [asyncio.create_task(reflector.run()) for reflector in self.reflectors]
        for reflector in self.reflectors:
            await reflector.wait_synced()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def claim_of(self, session: ClaudeSession) -> str:
        """The claim that holds a session's volume; empty if it has none yet."""
        known = session.spec.workspace_claim_name or session.status.volume_claim_name
        if known:
            return known
        found = [c for c in self.claims.by(BY_SESSION, session.name) if not c.leaving and _is_of(c, session)]
        # The status may have been lost, or not yet written. A session that is used holds its claim by the uid.
        found.sort(key=lambda c: (c.metadata.labels.get(SESSION_UID_LABEL) != session.metadata.uid, c.name))
        return found[0].name if found else ""

    def _session_changed(self, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        if not _only_used(old, new):
            self._rang(old, new, lambda s: [s.pool])

    def _teams_changed(self, old: ClaudeTeam | None, new: ClaudeTeam | None) -> None:
        if old is None or new is None or old.spec.max_live != new.spec.max_live:
            self._shares = None
            for pool in self.pools.items():
                self._ring(pool.name)

    def _rang(self, old: Object | None, new: Object | None, pools: Callable[..., Iterable[str]]) -> None:
        for object_ in (old, new):
            if object_ is not None:
                for pool in pools(object_):
                    self._ring(pool)


def _only_used(old: ClaudeSession | None, new: ClaudeSession | None) -> bool:
    """Whether nothing has changed but what the gateway writes: that is nothing to act on."""
    if old is None or new is None or old.status.usage == new.status.usage:
        return False
    meta = msgspec.structs.replace(old.metadata, resource_version=new.metadata.resource_version)
    status = msgspec.structs.replace(old.status, usage=new.status.usage)
    return new == msgspec.structs.replace(old, metadata=meta, status=status)


def _is_of(claim: PersistentVolumeClaim, session: ClaudeSession) -> bool:
    """Whether it is this session's own, or one that a backup brought back: of that name, and owned by nobody.

    One of a namesake that was deleted has that one as its owner, and goes with it.
    """
    return claim.metadata.labels.get(SESSION_UID_LABEL) == session.metadata.uid or not claim.metadata.owner_references


def _pool_of(object_: Object) -> list[str]:
    label = object_.metadata.labels.get(POOL_LABEL)
    return [label] if label else []


def _session_of(object_: Object) -> list[str]:
    label = object_.metadata.labels.get(SESSION_LABEL)
    return [label] if label else []
