"""The first half of a round: pods and workers' words become slots; what ended, failed or was lost is noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from claude_crds.events import Cause, Step
from claude_crds.resources import PODS, POOL_LABEL, POOLS, SESSIONS, Phase
from claude_crds.views import Pod
from claude_operator import trouble as troubles
from claude_operator.decide import WorkerState
from claude_operator.metrics import OperatorMetrics
from claude_operator.slots import Slot, Word, bound_to, claim_of, worker_container
from claude_operator.state import PoolState
from claude_operator.trouble import Trouble
from claude_operator.workers import Workers
from claude_operator.world import BY_POOL, World

_POOL_WIDE = frozenset({
    Cause.IMAGE, Cause.SECRET_MISSING, Cause.QUOTA, Cause.REFUSED, Cause.UNSCHEDULABLE, Cause.VOLUME_PENDING,
})  # fmt: skip
"""Causes that would keep any worker of the pool from starting."""


class Observer:
    """`remove(slot, purge)` is how it asks for a pod's deletion."""

    def __init__(
        self,
        state: PoolState,
        world: World,
        workers: Workers,
        metrics: OperatorMetrics,
        start_timeout: float,
        remove: Callable[[Slot, bool], None],
    ) -> None:
        self._state = state
        self._world = world
        self._workers = workers
        self._metrics = metrics
        self._start_timeout = start_timeout
        self._remove = remove

    def look(self, now: float) -> None:
        """Bring the slots up to date."""
        pods = {pod.name: pod for pod in self._world.pods.by(BY_POOL, self._state.name)}
        for pod in pods.values():
            self._see(pod, now)
        for slot in tuple(self._state.slots.values()):
            if slot.operation is not None:
                continue
            if slot.name in pods:
                self._step(slot, now)
            else:
                self._gone(slot, now)

    def _see(self, pod: Pod, now: float) -> None:
        slot = self._state.slots.get(pod.name)
        if slot is None:
            container = worker_container(pod)
            slot = self._state.slots[pod.name] = Slot(
                pod.name,
                claim_of(pod),
                bound_to(pod),
                since=now,
                last_active=now,
                restarts=container.restart_count if container else 0,
            )
            told = self._world.sessions.get(slot.session) if slot.session else None
            # An operator before us has seen it ready.
            slot.proven = told is not None and told.status.phase == Phase.READY and told.status.pod_name == pod.name
            # It has also begun to end it.
            slot.deleting = pod.leaving and (told is None or told.status.phase == Phase.SUSPENDING)
        slot.pod = pod
        if slot.operation is None:
            slot.session = bound_to(pod)

    def _step(self, slot: Slot, now: float) -> None:
        assert slot.pod is not None
        if slot.pod.leaving or slot.deleting:
            self._unfollow(slot)
            return
        if self._ownerless(slot):
            self._remove(slot, True)
        elif slot.state is WorkerState.TERMINATING:
            self._lost(slot, troubles.how_it_ended(slot.pod) or "it ended", now, failed=not slot.proven)
            self._remove(slot, False)
        elif slot.word is not None and slot.word.phase in ("draining", "drained") and not slot.draining:
            # Another operator, or somebody else, has asked it to: it will take no turn any more.
            slot.draining = "drained"
            self._remove(slot, False)
        else:
            self._follow(slot)
            self._restarts(slot, now)
            self._health(slot, now)

    def _ownerless(self, slot: Slot) -> bool:
        """Whether it is bound to a session that is deleted, or to an earlier one of the same name."""
        if slot.session is None:
            return False
        session = self._world.sessions.get(slot.session)
        return session is None or session.leaving or slot.session_uid not in ("", session.metadata.uid)

    # -- the worker's own word -----------------------------------------------------------------------------------

    def _follow(self, slot: Slot) -> None:
        if slot.followed is None and slot.endpoint:

            def hear(word: Word | None) -> None:
                if word is None:
                    slot.word = None
                    slot.published = False
                else:
                    slot.hear(word, self._state.clock())
                self._state.bell.set()

            slot.followed = asyncio.get_running_loop().create_task(
                self._workers.follow(slot.name, slot.endpoint, hear), name=f"follow {slot.name}"
            )

    @staticmethod
    def _unfollow(slot: Slot) -> None:
        if slot.followed is not None:
            slot.followed.cancel()
            slot.followed = None

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def _restarts(self, slot: Slot, now: float) -> None:
        assert slot.pod is not None
        container = worker_container(slot.pod)
        if container is None or container.restart_count <= slot.restarts:
            return
        times, slot.restarts = container.restart_count - slot.restarts, container.restart_count
        how = troubles.how_it_ended(slot.pod)
        slot.word = None if container.state.terminated or container.state.waiting else slot.word
        slot.published = False
        if slot.session and (session := self._world.sessions.get(slot.session)):
            self._state.note(slot.session).restarts = session.status.restarts + times
            self._tell(slot, Step.RESTARTED, f"Worker {slot.name} ended ({how}) and was started again.", warning=True)

    def _health(self, slot: Slot, now: float) -> None:
        claim = self._world.claims.get(slot.claim)
        if slot.state is WorkerState.READY:
            if not slot.proven:
                slot.proven = True
                self._state.recovered(now)
            if slot.word is not None and slot.word.problem == "key_refused" and not slot.busy(now):
                self._key_refused(slot, now)
            return
        found = troubles.of_slot(slot, claim, now, self._start_timeout)
        slot.trouble = found
        if found is not None and found.cause is Cause.CLONING:
            slot.since = now  # it has its own limit; the worker's start comes after it
        if found is not None and found.hopeless:
            self._failed(slot, found, now)

    def _failed(self, slot: Slot, found: Trouble, now: float) -> None:
        """It is of no use: say why, and end it."""
        claim = self._world.claims.get(slot.claim)
        if claim is not None and POOL_LABEL in claim.metadata.labels and claim.status.phase == "Pending":
            slot.no_volume = found.cause is Cause.VOLUME_PENDING
        wide = slot.session is None or found.cause in _POOL_WIDE or self._of_pool(slot, found)
        self._state.failed_to_start(found, slot.session, now, pool_wide=wide)
        self._tell(slot, Step.FAILED, f"{found.cause}: {found.message}", warning=True)
        self._remove(slot, False)

    def _of_pool(self, slot: Slot, found: Trouble) -> bool:
        """Whether what could not be cloned is what the pool says, and not the session's own."""
        session = self._world.sessions.get(slot.session) if slot.session else None
        return found.cause is Cause.CLONE and session is not None and session.spec.workspace.git is None

    def _key_refused(self, slot: Slot, now: float) -> None:
        """Its environment holds a key that is no good: so do those of all workers that were started before now."""
        for other in self._state.slots.values():
            other.outdated = True
        self._failed(slot, troubles.key_refused(), now)

    def _gone(self, slot: Slot, now: float) -> None:
        """Nothing is left of its pod."""
        self._unfollow(slot)
        del self._state.slots[slot.name]
        if slot.draining or slot.deleting:
            if slot.drained_at:
                self._metrics.suspends.observe(now - slot.drained_at)
            return
        # Somebody deleted it: that says nothing about whether it would have got ready.
        self._lost(slot, troubles.how_it_ended(slot.pod) if slot.pod else "", now, failed=False)

    def _lost(self, slot: Slot, how: str, now: float, *, failed: bool) -> None:
        """A pod that nobody here has ended. Its session gets another at once, or after a pause if the start failed."""
        told = f"Worker {slot.name} was lost{f' ({how})' if how else ''}"
        session = self._world.sessions.get(slot.session) if slot.session else None
        if slot.session is not None and (session is None or session.leaving):
            return
        if failed:
            why = Trouble(Cause.CRASHED, told + " before it was ready.", True)
            self._state.failed_to_start(why, slot.session, now, pool_wide=False)
        if session is None:
            return
        note = self._state.note(session.name)
        note.restarts = session.status.restarts + 1
        note.revive = True
        self._tell(slot, Step.RESTARTED, f"{told}; another is started on the same volume.", warning=True)

    def _tell(self, slot: Slot, step: Step, message: str, *, warning: bool = False) -> None:
        """An Event about the session, or, of a spare, about the pool."""
        recorder = self._state.recorder
        session = self._world.sessions.get(slot.session) if slot.session else None
        if session is not None:
            recorder.tell(SESSIONS, session, step, message, warning=warning)
        elif pool := self._world.pools.get(self._state.name):
            recorder.tell(POOLS, pool, step, message, warning=warning)
        elif slot.pod is not None:
            recorder.tell(PODS, slot.pod, step, message, warning=warning)
