"""The pool's one loop: read the state, `decide`, apply, sleep (see `claude_crds.rounds`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from claude_crds.rounds import rounds
from claude_operator.decide import Action, Claim, Drain, Policy, Queue, Start, StartWarm, Turns, decide
from claude_router.local.live import PROVEN_SECONDS, Live
from claude_router.local.workers import Workers

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
"""How far the records of running conversations may lag behind (their workers' own state does not)."""

_FORGET_SECONDS = 60.0
"""How long failed starts of a conversation are remembered after its back-off."""

_REFILL_SECONDS = 1.0
"""From a claim to the start of the next spare: its boot must not compete with the conversation's first turn."""


class Reconciler:
    """Runs the loop. `size` is the most live workers, `warm` the spares inside it, `idle_timeout` in seconds.

    `shares` gives the most live workers by team, at each round; a team that is not in it has no limit of its own.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        size: int,
        warm: int,
        idle_timeout: float,
        shares: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.workers = workers
        self.positions: dict[str, int] = {}
        self.at_limit: set[str] = set()
        """Of those, who waits for the own team's limit: the position is one among its team."""
        self.size = size
        self.stopped = False
        self._warm = warm
        self._idle_timeout = idle_timeout
        self._shares = shares
        self._turns = Turns()
        self._flush_at = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        await rounds(self.workers.bell, self.workers.clock, self._round)

    def _round(self, now: float) -> float | None:
        for live in tuple(self.workers.live.values()):
            self._observe(live, now)
        wakes = self._wakes(now)
        if not self.stopped:
            wakes += self._decide(now)
            self._serve(now)
        self._flush(now)
        return min((t for t in wakes if t > now), default=None)

    def _observe(self, live: Live, now: float) -> None:
        workers = self.workers
        if live.observe(now) and live.seen:
            workers.cli_version = live.seen.cli_version or workers.cli_version
            if live.bound and live.session in workers.store.records:
                workers.store.note(
                    live.session,
                    last_active=live.seen.last_active,
                    turns=live.seen.turns,
                    usage=live.seen.usage,
                    claude_session_id=live.seen.claude_session_id or "",
                )
        if live.process.ended:
            if not live.reaping:
                workers.reap(live)
        elif live.leaving or live.seen is None:
            return
        elif live.seen.phase == "failed":
            workers.failed(live, live.seen.error or "Claude Code could not be started")
            workers.stop(live)
        elif live.seen.phase in ("draining", "drained"):
            log.warning("%s was told to stop by somebody else", live.name)
            workers.stop(live)
        elif not live.proven and live.well(now):
            workers.succeeded(live)

    def _decide(self, now: float) -> list[float]:
        workers = self.workers
        for wanted in tuple(workers.wanted.values()):
            if wanted.idle(now, _FORGET_SECONDS):
                del workers.wanted[wanted.name]
        # While nothing can be started, one spare is tried now and then, so that recovery is seen without a request.
        warm = max(self._warm, 1) if workers.error else self._warm
        sessions = [w.view(fresh=workers.fresh(w)) for w in workers.wanted.values()]
        views = [live.view(now) for live in workers.live.values()]
        self._turns.look(sessions, views, now)
        policy = Policy(self.size, warm, self._idle_timeout, workers.warm_not_before, self._shares(), self._turns.ended)
        decision = decide(policy, sessions, views, now)
        queue = [a for a in decision.actions if isinstance(a, Queue)]
        self.positions = {a.session: a.position for a in queue}
        self.at_limit = {a.session for a in queue if a.own}
        for action in decision.actions:
            self._apply(action)
        wakes = [] if decision.wake_at is None else [decision.wake_at]
        if any(isinstance(a, StartWarm) for a in decision.actions):
            wakes.append(workers.warm_not_before)  # set by `_apply`, so `wake_at` cannot know of it
        return wakes

    def _apply(self, action: Action) -> None:
        workers = self.workers
        match action:
            case Claim(session, worker):
                live = workers.live[worker]
                live.session = session
                live.last_active = workers.clock()
                workers.wanted[session].worker = live
                workers.warm_not_before = max(workers.warm_not_before, workers.clock() + _REFILL_SECONDS)
            case Start(session):
                self._start(session)
            case StartWarm():
                # A claim of the same decision has moved the time: this spare is its refill, and waits like any other.
                if workers.warm_not_before > workers.clock():
                    return
                try:
                    workers.start(workers.store.volumes.create(), None)
                except OSError as error:
                    workers.pool_failed(f"its folder could not be made: {error}")
            case Drain(worker, reason):
                workers.drain(workers.live[worker], reason)

    def _start(self, session: str) -> None:
        workers, store = self.workers, self.workers.store
        wanted = workers.wanted[session]
        try:
            volume = store.volume(session) if session in store.records else store.volumes.create()
        except OSError as error:
            workers.session_failed(wanted, f"its folder could not be made: {error}")
        else:
            workers.start(volume, wanted)

    def _serve(self, now: float) -> None:
        """Everyone who waits for a worker that may be lent gets it, at once."""
        for live in self.workers.live.values():
            if live.session and live.answers() and not live.bound and live.binding is None:
                self.workers.bind(live)
        for wanted in self.workers.wanted.values():
            if wanted.waits() and wanted.worker and wanted.worker.lendable():
                wanted.answer(wanted.worker.lend(now))

    def _flush(self, now: float) -> None:
        if self.workers.store.dirty and now >= self._flush_at:
            self._flush_at = now + _FLUSH_SECONDS
            self.workers.task(self.workers.store.flush())

    def _wakes(self, now: float) -> list[float]:
        """When time alone changes something that `decide` does not know of."""
        live = self.workers.live.values()
        wakes = [w.held_until for w in live]
        wakes += [w.started + PROVEN_SECONDS for w in live if not w.proven]
        return wakes + ([self._flush_at] if self.workers.store.dirty else [])
