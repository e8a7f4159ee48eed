"""One pool's keeper: read, `decide`, apply, publish, and sleep until something rings or time changes something.

Level-triggered (see `claude_crds.rounds`). Writes run beside the rounds; a slot or session with
one under way is left alone until it is over, and counts as what it is about to become.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter

from claude_crds.events import Cause
from claude_crds.resources import Phase, duration
from claude_crds.rounds import rounds
from claude_crds.views import ClaudePool, ClaudeSession
from claude_operator import build, git, trouble
from claude_operator.acts import Acts
from claude_operator.decide import Action, Claim, Drain, Policy, Queue, Session, Start, StartWarm, decide
from claude_operator.metrics import OperatorMetrics
from claude_operator.observe import Observer
from claude_operator.operations import Operations
from claude_operator.overlay import BadTemplate
from claude_operator.publish import Publisher, pool_missing
from claude_operator.settings import OperatorSettings
from claude_operator.slots import HOLD_SECONDS, Slot
from claude_operator.state import PoolState
from claude_operator.world import ATTENDED, World

_AFTER_ERROR_SECONDS = 1.0
_REFILL_SECONDS = 1.0
"""From a claim to the next spare's start: its boot must not compete with the conversation's first turn."""


class Keeper:
    """Looks after one pool, from `run` until it is cancelled."""

    def __init__(
        self, state: PoolState, world: World, acts: Acts, metrics: OperatorMetrics, settings: OperatorSettings
    ) -> None:
        self.state = state
        self._world = world
        self._do = Operations(state, world, acts, metrics)
        self._metrics = metrics
        self._settings = settings
        self._observer = Observer(state, world, acts.workers, metrics, settings.start_timeout, self._remove)
        self._publisher = Publisher(
            state, world, acts, metrics, settings.status_interval, metered=bool(settings.gateway_url)
        )
        self._hashed = (("", 0), "")
        self._bad_template: trouble.Trouble | None = None
        self.last_round = state.clock()

    async def run(self) -> None:
        """Until cancelled."""
        await rounds(self.state.bell, self.state.clock, self._measured, {"pool": self.state.name})

    def _measured(self, now: float) -> float | None:
        try:
            return self.round(now)
        except Exception:
            self._metrics.errors.labels("round").inc()
            raise
        finally:
            self.last_round = self.state.clock()
            self._metrics.rounds.observe(self.last_round - now)

    async def end(self) -> None:
        """Let go of everything; what is under way is cut off, as a crash would."""
        tasks = [*self.state.tasks, *(s.followed for s in self.state.slots.values() if s.followed)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- a round -------------------------------------------------------------------------------------------------

    def round(self, now: float) -> float | None:
        """Look at everything, do what is to be done; returns when to look again if nothing rings."""
        state, pool = self.state, self._world.pools.get(self.state.name)
        self._observer.look(now)
        attended = self._attend(pool, now)
        wakes: list[float | None] = [s.held_until for s in state.slots.values()]
        wakes += [s.since + self._settings.start_timeout for s in state.slots.values() if not s.proven]
        if now < state.paused_until:
            wakes.append(state.paused_until)
        else:
            if pool is not None and not pool.leaving:
                wakes += self._decide(pool, attended, now)
                wakes += self._publisher.pool(pool, now)
            if pool is not None:
                self._do.own(pool, attended)
            wakes += self._publisher.sessions(attended, now)
        self._forget(attended, now)
        wakes += [n.lapses(now) for n in state.notes.values()]
        wakes += [n.retry_at for n in state.notes.values()]
        return min((t for t in wakes if t is not None and t > now), default=None)

    def _attend(self, pool: ClaudePool | None, now: float) -> dict[str, ClaudeSession]:
        """The sessions that may need something, each with its note brought up to date."""
        state, sessions = self.state, self._world.sessions
        attended = {s.name: s for s in sessions.by(ATTENDED, state.name)}
        for bound in {s.session for s in state.slots.values()}:
            if bound and bound not in attended and (found := sessions.get(bound)):
                attended[found.name] = found
        unix = state.unix()
        for session in attended.values():
            note, slot = state.note(session.name), state.slot_of(session.name)
            if slot is not None:
                slot.team = session.spec.team
            if slot is None and session.status.phase == Phase.READY and not note.writing and note.trouble is None:
                note.revive = True  # it was lost while nobody looked
                note.restarts = session.status.restarts + 1
            note.look(session, now, unix)
            if pool is None or pool.leaving:
                note.trouble, note.not_before = pool_missing(state.name), now + _AFTER_ERROR_SECONDS
                note.revive = False
            elif self._volume_lost(session, slot):
                note.trouble = trouble.volume_lost(session.status.volume_claim_name)
                note.not_before, note.revive = now + _AFTER_ERROR_SECONDS, False
            elif note.trouble is not None and self._over(note.trouble, note.failed_at):
                note.trouble = None
        self._metrics.phases(state.name, Counter(s.status.phase for s in attended.values()))
        return attended

    def _volume_lost(self, session: ClaudeSession, slot: Slot | None) -> bool:
        """Whether memory and files are gone. A claim that was never used has nothing to lose, and is made again."""
        status, spec = session.status, session.spec
        used = status.turns > 0 or status.claude_session_id
        known = status.volume_claim_name
        return bool(slot is None and used and known and not spec.workspace_claim_name) and (
            self._world.claims.get(known) is None
        )

    def _over(self, found: trouble.Trouble, failed_at: float) -> bool:
        """Whether the cause of a failure is known to be gone."""
        if found.cause in (Cause.POOL_MISSING, Cause.VOLUME_LOST):
            return True  # they are looked for anew in each round
        # That others can be started says nothing about a key, or about what one session is cloned from.
        own = found.cause in (Cause.KEY_REFUSED, Cause.CLONE)
        return not own and self.state.healthy_at > failed_at

    def _decide(self, pool: ClaudePool, attended: dict[str, ClaudeSession], now: float) -> list[float | None]:
        state, spec = self.state, pool.spec
        template = self._template(pool, now)
        for slot in state.slots.values():
            # It would wait for what the pool does not ask for any more, such as an image that never was.
            if slot.trouble is not None and slot.operation is None and slot.view(now, template).stale:
                slot.draining = "stale"
                self._remove(slot, False)
        # While nothing can be started, one spare is tried now and then, so that recovery is seen without a request.
        warm = max(spec.warm, 1) if state.trouble else spec.warm
        sessions = self._sessions(pool, attended)
        # Nor does anybody who works have to go for the sake of workers that cannot be started.
        workers = [slot.view(now, "" if state.trouble else template) for slot in state.slots.values()]
        state.turns.look(sessions, workers, now)
        policy = Policy(
            spec.size,
            min(warm, spec.size),
            duration(spec.idle_timeout),
            state.warm_not_before,
            self._world.shares,
            state.turns.ended,
        )
        decision = decide(policy, sessions, workers, now)
        queue = [a for a in decision.actions if isinstance(a, Queue)]
        state.positions = {a.session: a.position for a in queue}
        state.at_limit = {a.session for a in queue if a.own}
        for action in decision.actions:
            self._apply(action, pool, attended, now)
        return [decision.wake_at, state.warm_not_before]

    def _template(self, pool: ClaudePool, now: float) -> str:
        """The hash of what the pool asks for. Empty while no pod can be made like that, which the pool then says."""
        # Not by the resource version, which each status that is written changes.
        made_from = pool.metadata.uid, pool.metadata.generation
        if self._hashed[0] != made_from:
            before, made, self._bad_template = self._hashed[1], "", None
            try:
                made = build.template_hash(build.template(pool, self._settings))
            except BadTemplate as error:
                self._bad_template = trouble.of_template(error)
            self._hashed = made_from, made
            if made and made != before and self.state.trouble:
                # A full pool would not try a spare, and so never find out.
                self.state.recovered(now)
        if self._bad_template is not None:
            self.state.trouble = self._bad_template
        return self._hashed[1]

    def _sessions(self, pool: ClaudePool, attended: dict[str, ClaudeSession]) -> list[Session]:
        note, claim_of = self.state.note, self._world.claim_of
        views = [
            note(s.name).view(s, fresh=not claim_of(s) and git.may_claim(pool, s))
            for s in attended.values()
            if not s.leaving
        ]
        known = {view.name for view in views}
        # What is left of a deleted one's worker takes its team's room.
        left = [s for s in self.state.slots.values() if s.session and s.team and s.session not in known]
        return views + [Session(s.session, None, fresh=False, team=s.team) for s in left if s.session]

    def _apply(self, action: Action, pool: ClaudePool, attended: dict[str, ClaudeSession], now: float) -> None:
        state = self.state
        match action:
            case Claim(session, worker):
                slot = state.slots[worker]
                if slot.operation is not None or slot.pod is None:
                    return  # it is only being made: claimed as soon as that is done, and rings
                slot.session, slot.last_active, slot.kind = session, now, "claim"
                state.warm_not_before = max(state.warm_not_before, now + _REFILL_SECONDS)
                slot.operation = state.spawn(self._do.claim(slot, attended[session]))
            case Start(session):
                self._start(pool, attended[session], now)
            case StartWarm():
                if state.warm_not_before > now:
                    return
                name = f"{pool.name[:45]}-{secrets.token_hex(4)}"
                slot = state.slots[name] = Slot(name, name, None, since=now, last_active=now, kind="warm")
                slot.operation = state.spawn(self._do.start(slot, pool, None, None))
            case Drain(worker, reason):
                slot = state.slots[worker]
                if slot.operation is None and slot.pod is not None:
                    slot.draining, slot.drained_at = reason, now
                    of = attended.get(slot.session or "")
                    status = self._publisher.status_of(of, slot, now) if of else None
                    slot.operation = state.spawn(self._do.drain(slot, of, status))
            case _:
                pass

    # -- beside the rounds ---------------------------------------------------------------------------------------

    def _start(self, pool: ClaudePool, session: ClaudeSession, now: float) -> None:
        state = self.state
        known = self._world.claim_of(session)
        claim = known or f"{session.name}-{session.metadata.uid[:8]}"
        # A name that a status already gives was decided on by an operator that died: the same again is no second pod.
        told = session.status.pod_name if session.status.phase == Phase.STARTING else ""
        again = told if told and self._world.pods.get(told) is None and told not in state.slots else ""
        name = again or f"{session.name}-{secrets.token_hex(3)}"
        slot = state.slots[name] = Slot(name, claim, session.name, since=now, last_active=now)
        slot.kind = "resume" if session.status.turns or session.spec.workspace_claim_name else "start"
        note = state.note(session.name)
        note.trouble = None
        status = self._publisher.status_of(session, slot, now)
        slot.operation = state.spawn(self._do.start(slot, pool, session, status))

    def _remove(self, slot: Slot, purge: bool) -> None:
        slot.operation = self.state.spawn(self._do.remove(slot, purge=purge))

    def _forget(self, attended: dict[str, ClaudeSession], now: float) -> None:
        """Drop the notes of sessions that need nothing, once what failed is long ago."""
        for name in [n for n in self.state.notes if n not in attended]:
            note = self.state.notes[name]
            if self._world.sessions.get(name) is None or now > note.not_before + HOLD_SECONDS:
                del self.state.notes[name]
