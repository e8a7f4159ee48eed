"""Acts on workers, run beside the rounds: what goes wrong with one is noted, and the slot is free again after it."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from claude_crds.access import AccessError
from claude_crds.errors import AlreadyExists, ApiError, Conflict, NotFound
from claude_crds.events import Cause, Step
from claude_crds.resources import POOLS, SESSIONS
from claude_crds.views import ClaudePool, ClaudeSession, SessionStatus
from claude_operator import trouble
from claude_operator.acts import Acts
from claude_operator.lease import NotLeading
from claude_operator.metrics import OperatorMetrics
from claude_operator.overlay import BadTemplate
from claude_operator.slots import HOLD_SECONDS, Slot, bound_to
from claude_operator.state import PoolState
from claude_operator.workers import Busy
from claude_operator.world import World

log = logging.getLogger(__name__)

_AFTER_CONFLICT_SECONDS = 0.01
_AFTER_ERROR_SECONDS = 1.0


class Operations:
    """Each sets nothing but its own slot, and rings when it is over."""

    def __init__(self, state: PoolState, world: World, acts: Acts, metrics: OperatorMetrics) -> None:
        self.state = state
        self._world = world
        self._acts = acts
        self._metrics = metrics

    async def claim(self, slot: Slot, session: ClaudeSession) -> None:
        """Bind the spare to the session."""
        await self._operate(slot, self._acts.claim(slot, session))
        pod = self._world.pods.get(slot.name)
        if pod is None or bound_to(pod) != session.name:
            return  # it was decided on old news
        self.state.recorder.tell(SESSIONS, session, Step.CLAIMED, f"Claimed the warm worker {slot.name}.")

    async def start(
        self, slot: Slot, pool: ClaudePool, session: ClaudeSession | None, status: SessionStatus | None
    ) -> None:
        """Make the slot's worker."""
        await self._operate(slot, self._acts.start(slot, pool, session, status))
        if session is not None and self._world.pods.get(slot.name) is not None:
            told = f"Started worker {slot.name} on volume {slot.claim}."
            self.state.recorder.tell(SESSIONS, session, Step.STARTED, told)

    async def drain(self, slot: Slot, session: ClaudeSession | None, status: SessionStatus | None) -> None:
        """Have the worker end, if it is idle."""
        reason = slot.draining
        await self._operate(slot, self._acts.drain(slot, session, status))
        if not slot.deleting:
            return
        self._metrics.evictions.labels(reason).inc()
        if session is not None and reason == "evicted":
            told = (
                "Evicted: a conversation that waits needs the room, and this one was the first of the idle ones to go."
            )
            self.state.recorder.tell(SESSIONS, session, Step.EVICTED, told)

    async def remove(self, slot: Slot, *, purge: bool) -> None:
        """Delete the worker's pod."""
        await self._operate(slot, self._acts.delete_pod(slot, purge=purge))

    def own(self, pool: ClaudePool, attended: Mapping[str, ClaudeSession]) -> None:
        """Every bound worker's claim is its session's own."""
        for slot in self.state.slots.values():
            session = attended.get(slot.session or "")
            claim = self._world.claims.get(slot.claim)
            if slot.leaving or (session is not None and slot.session_uid != session.metadata.uid):
                continue  # of an earlier session of this name, maybe: its volume goes with it
            if session is None or claim is None or slot.operation is not None or slot.owning:
                continue
            owned = any(o.uid == session.metadata.uid for o in claim.metadata.owner_references)
            if not owned and not session.leaving and claim.name != session.spec.workspace_claim_name:
                slot.owning = True
                self.state.spawn(self._owned(slot, self._acts.own_claim(claim, pool, session)))

    async def _owned(self, slot: Slot, act: Coroutine[Any, Any, None]) -> None:
        try:
            await act
        finally:
            slot.owning = False  # what goes wrong is told where all tasks end

    async def _operate(self, slot: Slot, act: Coroutine[Any, Any, None]) -> None:
        """Run an act on the slot; whatever goes wrong is noted, and the slot is free again."""
        state = self.state
        try:
            await act
        except Busy:
            slot.draining = ""
            slot.held_until = state.clock() + HOLD_SECONDS
        except (Conflict, AlreadyExists, NotFound) as error:
            slot.draining, slot.deleting = "", False
            self._metrics.errors.labels("conflict").inc()
            log.info("decided on old news", extra={"fields": {"pod": slot.name, "reason": str(error)}})
            state.pause(state.clock(), _AFTER_CONFLICT_SECONDS)
        except (ApiError, AccessError, BadTemplate, NotLeading) as error:
            slot.draining, slot.deleting = "", False
            self._not_done(slot, error)
        except Exception:
            slot.draining, slot.deleting = "", False
            self._metrics.errors.labels("act").inc()
            log.exception("an act failed", extra={"fields": {"pod": slot.name}})
            state.pause(state.clock(), _AFTER_ERROR_SECONDS)
        finally:
            slot.operation = None
            if slot.pod is None and self._world.pods.get(slot.name) is None:
                state.slots.pop(slot.name, None)

    def _not_done(self, slot: Slot, error: Exception) -> None:
        state, now = self.state, self.state.clock()
        self._metrics.errors.labels("template" if isinstance(error, BadTemplate) else "api").inc()
        log.warning("a write failed", extra={"fields": {"pod": slot.name, "reason": str(error)}})
        found = _why(error)
        if found is None or found.cause is Cause.API:
            state.pause(now, _AFTER_ERROR_SECONDS)
        elif slot.pod is None:
            state.failed_to_start(found, slot.session, now, pool_wide=True)
            pool = self._world.pools.get(state.name)
            if slot.session is None and pool is not None:  # a session's is told with its status
                state.recorder.tell(POOLS, pool, Step.FAILED, f"{found.cause}: {found.message}", warning=True)


def _why(error: Exception) -> trouble.Trouble | None:
    if isinstance(error, BadTemplate):
        return trouble.of_template(error)
    return trouble.of_error(error) if isinstance(error, ApiError) else None
