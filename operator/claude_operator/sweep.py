"""What no event brings up: sessions past their pool's retention, and volumes that nobody has or will have."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterator
from typing import Any

from claude_crds.access import AccessError
from claude_crds.errors import ApiError
from claude_crds.resources import POOL_LABEL, SESSION_LABEL, Phase, duration
from claude_crds.views import ClaudePool, ClaudeSession, PersistentVolumeClaim
from claude_operator.acts import Acts
from claude_operator.world import BY_POOL, World

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
SPARE_SECONDS = 120.0
"""A claim without session and pod may be one whose pod is about to be made; not after this time."""


def past_retention(pool: ClaudePool, sessions: Iterator[ClaudeSession], unix: float) -> list[ClaudeSession]:
    """The suspended sessions that nobody has used for the pool's retention."""
    keep = duration(pool.spec.retention)
    if not keep:
        return []
    return [s for s in sessions if s.status.phase == Phase.SUSPENDED and not s.leaving and unix - _last(s) > keep]


def _last(session: ClaudeSession) -> float:
    """When it was last of use to anybody, as Unix time; of unknown times: now is never past."""
    moments = [session.metadata.creation_timestamp, session.status.last_active_time, session.spec.last_request_time]
    moments += [c.last_transition_time for c in session.status.conditions]
    return max((m.timestamp() for m in moments if m is not None), default=float("inf"))


def unclaimed(world: World, unix: float) -> list[PersistentVolumeClaim]:
    """Claims of spares that are gone: no session's by label, status or owner, and no pod's."""
    used = {v for s in world.sessions.items() for v in (s.status.volume_claim_name, s.spec.workspace_claim_name) if v}
    used |= {v.persistent_volume_claim.claim_name for p in world.pods.items() for v in p.spec.volumes
             if v.persistent_volume_claim}  # fmt: skip
    return [c for c in world.claims.items() if c.name not in used and not c.leaving and _spare(c, unix)]


def _spare(claim: PersistentVolumeClaim, unix: float) -> bool:
    made = claim.metadata.creation_timestamp
    owned = any(o.kind == "ClaudeSession" for o in claim.metadata.owner_references)
    old = made is not None and unix - made.timestamp() > SPARE_SECONDS
    labels = claim.metadata.labels
    return old and not owned and POOL_LABEL in labels and SESSION_LABEL not in labels


async def sweep(world: World, acts: Acts, unix: float) -> None:
    """Delete what is to be deleted. Every deletion names the version that was looked at."""
    for pool in tuple(world.pools.items()):
        for session in past_retention(pool, iter(world.sessions.by(BY_POOL, pool.name)), unix):
            log.info("past its retention", extra={"fields": {"session": session.name, "pool": pool.name}})
            await _quietly(acts.delete_session(session))
    for claim in unclaimed(world, unix):
        log.info("a spare's volume without pod", extra={"fields": {"claim": claim.name}})
        await _quietly(acts.delete_claim(claim))


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except (ApiError, AccessError) as error:
        log.info("not swept: %s", error)
