"""The last part of a round: every session's status, and the pool's, say what is true."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from claude_crds.errors import ApiError, Conflict, NotFound
from claude_crds.events import Cause, Step
from claude_crds.resources import READY_CONDITION, SESSIONS, Phase
from claude_crds.views import ClaudePool, ClaudeSession, PoolStatus, SessionStatus, condition
from claude_operator import phases
from claude_operator.acts import Acts
from claude_operator.decide import WorkerState
from claude_operator.metrics import OperatorMetrics
from claude_operator.notes import Note
from claude_operator.slots import Slot
from claude_operator.state import PoolState
from claude_operator.trouble import Trouble
from claude_operator.world import ATTENDED, BY_POOL, World

_POOL_INTERVAL_SECONDS = 1.0
_BUSY_INTERVAL_SECONDS = 10.0
"""How many are busy changes with every turn: that alone is not worth a write a turn."""
_RETRY_SECONDS = 0.05


class Publisher:
    """Writes a status when it has changed: at once where somebody waits for it, else every `interval` seconds."""

    def __init__(
        self,
        state: PoolState,
        world: World,
        acts: Acts,
        metrics: OperatorMetrics,
        interval: float,
        *,
        metered: bool = False,
    ) -> None:
        """`metered`: a gateway counts what sessions use."""
        self._state = state
        self._world = world
        self._acts = acts
        self._metrics = metrics
        self._interval = interval
        self._metered = metered
        self._pool_changed: float | None = None
        self._pool_writing = False

    # -- sessions ------------------------------------------------------------------------------------------------

    def status_of(self, session: ClaudeSession, slot: Slot | None, now: float) -> SessionStatus:
        """What the session's status should be, with this worker."""
        state = self._state
        note, unix = state.note(session.name), state.unix()
        if slot is not None and slot.session_uid not in ("", session.metadata.uid):
            slot = None  # of an earlier session of this name: its volume and its turns are not this one's
        since = None if note.waiting_since is None else unix - (now - note.waiting_since)
        told = session.status.waiting_since
        if told is not None and since is not None and abs(told.timestamp() - since) < 1.0:
            since = told.timestamp()  # read from two clocks at two moments, it is never quite the same
        pool = self._world.pools.get(state.name)
        starting = slot is not None and not slot.leaving
        failed = note.trouble is not None and not starting and (note.waiting_since is None or now < note.not_before)
        return phases.target(
            phases.Facts(
                session=session,
                slot=slot,
                claim=slot.claim if slot else self._world.claim_of(session),
                waiting_since=since,
                position=state.positions.get(session.name),
                pool_size=pool.spec.size if pool else 0,
                trouble=slot.trouble if starting and slot else note.trouble,
                failed=failed,
                restarts=note.restarts,
                unix=unix,
                metered=self._metered,
                team_limit=self._world.shares.get(session.spec.team) if session.name in state.at_limit else None,
            )
        )

    def sessions(self, attended: Mapping[str, ClaudeSession], now: float) -> list[float]:
        """Write what has changed; returns when to look again."""
        wakes = []
        for session in attended.values():
            note, slot = self._state.note(session.name), self._state.slot_of(session.name)
            if (
                note.writing
                or session.leaving
                or now < note.retry_at
                or (slot is not None and slot.operation is not None)
            ):
                continue
            status = self.status_of(session, slot, now)
            if phases.urgent(session.status, status):
                self._write(session, note, slot, status, now)
            elif status != session.status:
                due = note.written_at + self._interval
                if due <= now:
                    self._write(session, note, slot, status, now)
                else:
                    wakes.append(due)
        return wakes

    def _write(self, session: ClaudeSession, note: Note, slot: Slot | None, status: SessionStatus, now: float) -> None:
        note.writing = True
        note.written_at = now
        if slot is not None and status.endpoint and not slot.published:
            slot.publish(now)
        self._state.spawn(self._written(session, note, slot, status))

    async def _written(self, session: ClaudeSession, note: Note, slot: Slot | None, status: SessionStatus) -> None:
        state = self._state
        try:
            await self._acts.write_status(session, status)
        except (Conflict, NotFound):
            note.retry_at = state.clock() + _RETRY_SECONDS
            if slot is not None and session.status.phase != Phase.READY:
                slot.published = False
        except ApiError:
            note.retry_at = state.clock() + 1.0
            raise
        else:
            self.told(session, note, slot, status)
        finally:
            note.writing = False

    def told(self, session: ClaudeSession, note: Note, slot: Slot | None, status: SessionStatus) -> None:
        """A status was written: Events and measures of what changed with it."""
        old, recorder = session.status, self._state.recorder
        if old.phase == status.phase:
            return
        if status.phase == Phase.READY and slot is not None:
            if note.waiting_since is not None:
                self._metrics.waited(slot.kind or "restart", self._state.clock() - note.waiting_since)
            note.succeed()
            resumed = slot.kind == "resume"
            recorder.tell(SESSIONS, session, Step.READY, f"Worker {slot.name} takes turns.")
            if resumed:
                recorder.tell(SESSIONS, session, Step.RESUMED, f"Resumed on volume {slot.claim}.")
        elif status.phase == Phase.SUSPENDED and old.phase:
            recorder.tell(SESSIONS, session, Step.SUSPENDED, "The worker has ended; memory and files are kept.")
        elif status.phase == Phase.QUEUED:
            recorder.tell(SESSIONS, session, Step.QUEUED, status.message)
        elif status.phase == Phase.FAILED:
            found = condition(status.conditions, READY_CONDITION)
            reason = found.reason if found else ""
            recorder.tell(SESSIONS, session, Step.FAILED, f"{reason}: {status.message}", warning=True)

    # -- the pool ------------------------------------------------------------------------------------------------

    def pool(self, pool: ClaudePool, now: float) -> list[float]:
        """Write the pool's status a second after it has changed."""
        status = self._pool_status(pool, now)
        self._metrics.pool(pool.name, status)
        if self._pool_writing:
            return []
        if status == pool.status:
            self._pool_changed = None
            return []
        if self._pool_changed is None:
            self._pool_changed = now
        only_busy = status == msgspec.structs.replace(pool.status, busy=status.busy)
        due = self._pool_changed + (_BUSY_INTERVAL_SECONDS if only_busy else _POOL_INTERVAL_SECONDS)
        if now < due:
            return [due]
        self._pool_changed = None
        self._pool_writing = True
        self._state.spawn(self._pool_written(pool, status))
        return []

    async def _pool_written(self, pool: ClaudePool, status: PoolStatus) -> None:
        try:
            await self._acts.write_pool_status(pool, status)
        except (Conflict, NotFound):
            pass
        finally:
            self._pool_writing = False

    def _pool_status(self, pool: ClaudePool, now: float) -> PoolStatus:
        slots, name = self._state.slots.values(), self._state.name
        attended = self._world.sessions.by(ATTENDED, name)
        trouble, unix = self._state.trouble, float(round(self._state.unix()))
        reason, message = (str(trouble.cause), trouble.message) if trouble else ("WorkersStart", "")
        return PoolStatus(
            observed_generation=pool.metadata.generation,
            live=len(slots),
            busy=sum(1 for s in slots if s.session and not s.leaving and s.busy(now)),
            warm=sum(1 for s in slots if s.session is None and s.state is WorkerState.READY),
            suspended=len(self._world.sessions.by(BY_POOL, name)) - len(attended),
            queued=len(self._state.positions),
            conditions=(phases.ready_condition(pool.status.conditions, trouble is None, reason, message, unix),),
        )


def pool_missing(name: str) -> Trouble:
    """The session's pool is not there."""
    return Trouble(Cause.POOL_MISSING, f"ClaudePool {name} does not exist: create it, or delete this session.", True)
