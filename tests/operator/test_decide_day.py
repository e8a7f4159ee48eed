"""A day of ten thousand conversations: the policy in a pool whose clock, traffic and troubles are simulated.

Event-driven: nothing happens between two events, so a day takes as long as its decisions. Each decision is held against
the laws that matter to a conversation: room, safety, order of eviction; and nobody waits in vain while a worker idles.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from claude_operator.decide import (
    Claim,
    Decision,
    Drain,
    Policy,
    Session,
    Start,
    StartWarm,
    Worker,
    WorkerState,
    decide,
)  # fmt: skip
from operator_world import World

DAY = 86_400.0
START, DRAIN, QUEUE_TIMEOUT, BACK_OFF = 1.5, 0.5, 30.0, 10.0
POOL = Policy(size=50, warm=5, idle_timeout=120)
TURNS_A_VISIT, TURN, THOUGHT = 6, 12.0, 20.0
STARTS_THAT_FAIL = 0.01
CROWD_AT, CROWD, CROWD_TURN = 0.6 * DAY, 200, 40.0
"""Once a day everybody comes at the same time, with long turns, so that some wait in vain."""


class Day(World):
    """A world with a calendar. `suspended` are the conversations that nobody talks to: decide never sees them."""

    def __init__(self, policy: Policy, conversations: int, *, suspended: int = 0, seed: int = 1) -> None:
        super().__init__(policy)
        self.random = random.Random(seed)
        self.conversations = [f"c{i:05d}" for i in range(conversations)]
        self.suspended = {f"s{i:05d}" for i in range(suspended)}
        self.known |= self.suspended
        self.asked = self.served = self.given_up = self.failed = self.evicted = self.decisions = 0
        self.visiting: dict[str, int] = {}
        """How many turns a conversation is still to have before its user leaves."""
        self._of: dict[str, str] = {}
        self._turn: dict[str, float] = {}
        self._resting: dict[str, Session] = {}
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, str]] = []
        self._wake = math.inf

    def sessions(self) -> list[Session]:
        """Those that wait or have a worker. Made once for those that only have one, as they change nothing."""
        waiting = [
            Session(name, since, fresh=name not in self.known, not_before=self.not_before.get(name, 0.0))
            for name, since in self.waiting.items()
        ]
        return waiting + [self._resting[name] for name in self._of if name not in self.waiting]

    # -- the calendar --------------------------------------------------------------------------------------------

    def at(self, when: float, what: str, whom: str = "") -> None:
        heapq.heappush(self._events, (when, next(self._order), what, whom))

    def plan(self, visits: int, crowd: int = 0) -> None:
        """A day's visits: few at night, most in the afternoon."""
        for _ in range(visits):
            self.at(self._hour(), "visit", self.random.choice(self.conversations))
        for name in self.random.sample(self.conversations, crowd):
            self.at(CROWD_AT + self.random.uniform(0, 60), "crowd", name)

    def _hour(self) -> float:
        while True:
            when = self.random.uniform(0, DAY)
            if self.random.uniform(0, 2) < 1 - math.cos(2 * math.pi * when / DAY):
                return when

    def run(self) -> None:
        """From the first event to the last."""
        self.settle_now()
        while self._events:
            self.now, _, what, whom = heapq.heappop(self._events)
            if getattr(self, f"_on_{what}")(whom):
                self.settle_now()

    def settle_now(self) -> None:
        """Decide, check, apply; once is enough, since nothing follows from a decision but later."""
        decision = self.decide()
        self.decisions += 1
        self._check(decision)
        self.apply(decision)
        assert len(self.workers) <= self.policy.size, "more workers than the pool's size"
        if decision.wake_at is not None and decision.wake_at < self._wake:
            self._wake = decision.wake_at
            self.at(self._wake, "wake")

    # -- events; each tells whether something changed that decide should see -------------------------------------

    def _on_visit(self, name: str) -> bool:
        if name in self.visiting:
            return False
        self.visiting[name] = 1 + int(self.random.expovariate(1 / (TURNS_A_VISIT - 0.5)))
        return self._on_ask(name)

    def _on_crowd(self, name: str) -> bool:
        if name in self.visiting:
            return False
        self.visiting[name], self._turn[name] = 1, CROWD_TURN
        return self._on_ask(name)

    def _on_ask(self, name: str) -> bool:
        self.asked += 1
        worker = self.workers.get(self._of.get(name, ""))
        if worker is not None and worker.state is WorkerState.READY:
            # The router sends it there without asking anybody.
            self._begin(name, worker)
            return False
        self.ask(name)
        self.at(self.now + QUEUE_TIMEOUT, "timeout", name)
        return True

    def _on_timeout(self, name: str) -> bool:
        if self.waiting.get(name) != self.now - QUEUE_TIMEOUT:
            return False
        if self.not_before.get(name, 0.0) <= self.now:
            idle = [w for w in self.workers.values() if self._might_go(w)]
            assert not idle, "somebody waited in vain beside a worker that might have made way"
        del self.waiting[name]
        self.given_up += 1
        self._leave(name)
        return True

    def _on_ready(self, worker: str) -> bool:
        if worker not in self.workers:
            return False
        session = self.workers[worker].session
        if self.random.random() < STARTS_THAT_FAIL:
            self._fail(worker, session)
        elif self.workers[worker].state is WorkerState.STARTING:
            self.become_ready(worker)
            if session in self.waiting:
                assert session is not None
                self._begin(session, self.workers[worker])
        return True

    def _on_finish(self, worker: str) -> bool:
        self.finish(worker)
        session = self.workers[worker].session
        assert session is not None
        self.visiting[session] -= 1
        if self.visiting[session] > 0:
            self.at(self.now + self.random.expovariate(1 / THOUGHT), "ask", session)
        else:
            self._leave(session)
        return True

    def _on_gone(self, worker: str) -> bool:
        if worker in self.workers:
            self._forget(worker)
            self.die(worker)
        return True

    def _on_wake(self, _: str) -> bool:
        if self.now != self._wake:
            return False
        self._wake = math.inf
        return True

    def _begin(self, session: str, worker: Worker) -> None:
        assert not worker.busy, "two turns of one conversation at a time"
        self.waiting.pop(session, None)
        self.served += 1
        self.workers[worker.name] = replace(worker, busy=True, last_active=self.now)
        self.at(self.now + self.random.expovariate(1 / self._turn.get(session, TURN)), "finish", worker.name)

    def _leave(self, session: str) -> None:
        del self.visiting[session]
        self._turn.pop(session, None)

    def _fail(self, worker: str, session: str | None) -> None:
        self.failed += 1
        self._forget(worker)
        self.die(worker)
        if session is None:
            self.policy = replace(self.policy, warm_not_before=self.now + BACK_OFF)
        else:
            self.not_before[session] = self.now + BACK_OFF

    def _forget(self, worker: str) -> None:
        session = self.workers[worker].session
        if session is not None:
            del self._of[session]

    # -- what was decided ----------------------------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        before = len(self.workers)
        super().apply(decision)
        for worker in itertools.islice(reversed(self.workers.values()), len(self.workers) - before):
            self.at(self.now + START, "ready", worker.name)
            self._bind(worker)
        for action in decision.actions:
            if isinstance(action, Drain):
                self.at(self.now + DRAIN, "gone", action.worker)
            elif isinstance(action, Claim):
                worker = self.workers[action.worker]
                self._bind(worker)
                if worker.state is WorkerState.READY:
                    self._begin(action.session, worker)

    def _bind(self, worker: Worker) -> None:
        if worker.session is not None:
            assert worker.session not in self._of, "a second worker of one conversation"
            self._of[worker.session] = worker.name
            self._resting.setdefault(worker.session, Session(worker.session, None, fresh=False))

    def _might_go(self, worker: Worker) -> bool:
        return worker.state is WorkerState.READY and not worker.busy and worker.session not in self.waiting

    def _check(self, decision: Decision) -> None:
        gone = [self.workers[a.worker] for a in decision.actions if isinstance(a, Drain)]
        if gone:
            assert not any(w.busy for w in gone), "a busy worker was drained"
            assert not any(w.session in self.waiting for w in gone), "a worker that someone waits for was drained"
        evicted = [self.workers[a.worker] for a in decision.actions if isinstance(a, Drain) and a.reason == "evicted"]
        if evicted:
            self.evicted += len(evicted)
            names = {w.name for w in gone} | {a.worker for a in decision.actions if isinstance(a, Claim)}
            kept = [w for w in self.workers.values() if self._might_go(w) and w.name not in names]
            assert all(w.session is not None for w in kept), "a spare outlived a conversation's worker"
            last = max(w.last_active for w in evicted)
            assert all(last <= w.last_active for w in kept), "not the least recently active one"
        started = sum(isinstance(a, Start | StartWarm) for a in decision.actions)
        assert started == 0 or len(self.workers) + started <= self.policy.size, "started without room"


def best(times: int, work: Callable[[], object]) -> float:
    """Seconds of this process's time that the work takes, at its quickest."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def test_a_day_of_ten_thousand_conversations() -> None:
    began = time.process_time()
    day = Day(POOL, conversations=10_000)
    day.plan(visits=8_600, crowd=CROWD)
    day.run()
    assert day.served > 50_000
    assert day.served + day.given_up == day.asked, "each request is served or told that there was no room"
    assert not day.waiting
    assert not day.visiting
    # The day had all that a pool may meet, and nobody but the crowd and the unlucky waited in vain.
    assert day.evicted > 100
    assert day.failed > 20
    assert 0 < day.given_up < CROWD
    # At its end it is at rest: the spares, and no worker that nobody talks to.
    assert [w.session for w in day.workers.values()] == [None] * POOL.warm
    assert time.process_time() - began < 15


@pytest.mark.parametrize("size", [50, 1_000, 10_000])
def test_ten_thousand_at_once_are_decided_in_less_than_50_ms(size: int) -> None:
    """Though callers pass those only that want something: a thousand wait, and a pool's worth has workers."""
    sessions = [Session(f"c{i:05d}", 9_999.0 - i if i % 10 == 0 else None, fresh=i % 20 == 0) for i in range(10_000)]
    states = itertools.cycle([WorkerState.READY, WorkerState.READY, WorkerState.STARTING, WorkerState.DRAINING])
    bound = [s for s in sessions if s.waiting_since is None][:size]
    workers = [
        Worker(f"w{i:05d}", state, s.name, busy=i % 3 == 0, last_active=float(i))
        for i, (s, state) in enumerate(zip(bound, states, strict=False))
    ]
    policy = Policy(size, warm=5, idle_timeout=0)
    assert best(3, lambda: decide(policy, sessions, workers, 20_000.0)) < 0.05


def test_an_event_costs_the_same_however_many_conversations_are_suspended() -> None:
    def cost(suspended: int) -> float:
        day = Day(POOL, conversations=1_000, suspended=suspended)
        day.plan(visits=300)
        taken = best(1, day.run)
        assert day.decisions > 1_500
        return taken / day.decisions

    # In turn, so that a machine that is slow for a while is so for both.
    pairs = [(cost(1_000), cost(10_000)) for _ in range(3)]
    few, many = (min(costs) for costs in zip(*pairs, strict=True))
    assert many / few < 1.5
