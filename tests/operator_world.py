"""A small world for `decide`: it applies decisions, and lets things happen to workers and conversations."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace
from typing import Self

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

RUNNING = (WorkerState.STARTING, WorkerState.READY)


@dataclass
class World:
    """Workers, conversations and a clock. `busy` in a worker means that its conversation's turn runs."""

    policy: Policy
    now: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    suspending: set[str] = field(default_factory=set)
    not_before: dict[str, float] = field(default_factory=dict)
    _names: itertools.count[int] = field(default_factory=itertools.count)

    # -- what decide sees ----------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        bound = {w.session for w in self.workers.values() if w.session}
        return [
            Session(
                name,
                waiting_since=self.waiting.get(name),
                fresh=name not in self.known,
                suspend_requested=name in self.suspending,
                not_before=self.not_before.get(name, 0.0),
            )
            for name in sorted(bound | set(self.waiting) | self.suspending)
        ]

    def decide(self) -> Decision:
        return decide(self.policy, self.sessions(), self.workers.values(), self.now)

    # -- applying ------------------------------------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        touched: set[str] = set()
        for action in decision.actions:
            match action:
                case StartWarm():
                    self._start(None)
                case Start(session):
                    self._start(session)
                    self.known.add(session)
                case Claim(session, worker):
                    assert worker not in touched
                    touched.add(worker)
                    assert self.workers[worker].session is None
                    self.workers[worker] = replace(self.workers[worker], session=session, last_active=self.now)
                    self.known.add(session)
                case Drain(worker):
                    assert worker not in touched
                    touched.add(worker)
                    self.workers[worker] = replace(self.workers[worker], state=WorkerState.DRAINING)

    def _start(self, session: str | None) -> None:
        assert session is None or all(w.session != session for w in self.workers.values())
        name = f"w{next(self._names):04d}"
        self.workers[name] = Worker(name, WorkerState.STARTING, session, last_active=self.now)

    # -- what happens --------------------------------------------------------------------------------------------

    def ask(self, session: str) -> None:
        """A request arrives."""
        self.waiting.setdefault(session, self.now)

    def serve(self) -> list[str]:
        """Waiting requests whose worker is ready begin their turns; returns which."""
        served = []
        for worker in list(self.workers.values()):
            if worker.state is WorkerState.READY and worker.session in self.waiting:
                assert worker.session is not None
                del self.waiting[worker.session]
                self.workers[worker.name] = replace(worker, busy=True, last_active=self.now)
                served.append(worker.session)
        return served

    def become_ready(self, name: str) -> None:
        if self.workers[name].state is WorkerState.STARTING:
            self.workers[name] = replace(self.workers[name], state=WorkerState.READY)

    def finish(self, name: str) -> None:
        """A turn ends."""
        if self.workers[name].busy:
            self.workers[name] = replace(self.workers[name], busy=False, last_active=self.now)

    def refuse(self, name: str) -> None:
        """A worker that was asked to drain has a turn already."""
        worker = self.workers[name]
        if worker.state is WorkerState.DRAINING and worker.session is not None:
            self.workers[name] = replace(worker, state=WorkerState.READY, busy=True, last_active=self.now)

    def go(self, name: str) -> None:
        """A draining worker confirms, a terminating one is gone."""
        worker = self.workers[name]
        if worker.state is WorkerState.DRAINING:
            self.workers[name] = replace(worker, state=WorkerState.TERMINATING)
        elif worker.state is WorkerState.TERMINATING:
            self._gone(worker)

    def die(self, name: str) -> None:
        """A worker is lost, whatever it does."""
        self._gone(self.workers[name])

    def _gone(self, worker: Worker) -> None:
        del self.workers[worker.name]
        if worker.session is not None and worker.session not in self.waiting:
            self.suspending.discard(worker.session)

    def settle(self, rounds: int = 200) -> list[str]:
        """Everything that can come to its end does, until nothing changes; returns who was served, in order."""
        served: list[str] = []
        for _ in range(rounds):
            before = (dict(self.workers), dict(self.waiting))
            for name in list(self.workers):
                self.finish(name)
                self.become_ready(name)
                self.go(name) if self.workers[name].state not in RUNNING else None
            served += self.serve()
            self.apply(self.decide())
            self.now += 0.001
            if (dict(self.workers), dict(self.waiting)) == before:
                break
        return served

    def without_a_turn_ending(self) -> Self:
        """What this world comes to while the clock and all turns stand still: workers come and go as asked."""
        world = copy.deepcopy(self)
        for _ in range(200):
            before = (dict(world.workers), dict(world.waiting))
            for name in list(world.workers):
                world.become_ready(name)
                world.go(name)
            world.serve()
            world.apply(world.decide())
            if (dict(world.workers), dict(world.waiting)) == before:
                return world
        raise AssertionError("it never comes to rest")
