"""The laws between teams, and a world in which they hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction

from claude_operator.decide import (
    Claim,
    Decision,
    Drain,
    Queue,
    Session,
    Start,
    StartWarm,
    Worker,
    WorkerState,
    decide,
)  # fmt: skip
from claude_operator.shares import Turns
from operator_world import RUNNING, World

TEAMS = "abc"
CONVERSATIONS = [f"{team}{i}" for team in TEAMS for i in range(4)]
READY = WorkerState.READY


def team_of(session: str | None) -> str:
    return session[0] if session else ""


@dataclass
class Shared(World):
    """A world whose conversations belong to teams. It remembers between decisions what the pool's keeper does."""

    turns: Turns = field(default_factory=Turns)

    def decide(self) -> Decision:
        self.turns.look(self.sessions(), self.workers.values(), self.now)
        self.policy = replace(self.policy, ended=dict(self.turns.ended))
        return super().decide()

    def sessions(self) -> list[Session]:
        return [replace(s, team=team_of(s.name)) for s in super().sessions()]


class Case:
    """A state with what was decided about it, told in the words of the laws: one step, one slot, at a time."""

    def __init__(self, world: World) -> None:
        actions = world.decide().actions
        self.policy, self.sessions, self.now = world.policy, world.sessions(), world.now
        self.workers = list(world.workers.values())
        self.claims = [a for a in actions if isinstance(a, Claim)]
        self.starts = [a.session for a in actions if isinstance(a, Start)]
        self.queue = [a for a in actions if isinstance(a, Queue)]
        self.moved = [c.session for c in self.claims] + self.starts
        self.warm = sum(isinstance(a, StartWarm) for a in actions)
        self.worker = {w.name: w for w in self.workers}
        self.evicted = [self.worker[a.worker] for a in actions if isinstance(a, Drain) and a.reason == "evicted"]
        self.due = {a.worker for a in actions if isinstance(a, Drain) and a.reason in ("idle", "requested")}
        self.stale = {a.worker for a in actions if isinstance(a, Drain) and a.reason == "stale"}
        gone = {a.worker for a in actions if isinstance(a, Drain)} | {c.worker for c in self.claims}

        waited_for = {s.name for s in self.sessions if s.waiting_since is not None}
        staying = [w for w in self.workers if w.state in RUNNING and w.name not in self.due]
        free = [w for w in staying if not w.busy and w.session not in waited_for]
        self.idle = sorted(
            (w for w in free if w.session is not None and w.state is READY), key=lambda w: (w.last_active, w.name)
        )
        self.spares = [w for w in free if w.session is None and w.name not in {c.worker for c in self.claims}]
        self.kept_idle = [w for w in self.idle if w.name not in gone]
        self.kept_spares = [w for w in self.spares if w.name not in gone]
        in_use = [w for w in staying if w not in free or (w.session is not None and w.state is not READY)]
        self.in_use = Counter(team_of(w.session) for w in in_use)
        self.has = Counter(team_of(w.session) for w in self.workers if w.session)
        has_worker = {w.session for w in staying}
        self.held = {w.session for w in self.workers} - has_worker
        self.unserved = [s.name for s in self.sessions if s.name in waited_for - has_worker]
        self.line, self.full = self._line()
        self.admitted = self.line[: max(0, self.policy.size - sum(self.in_use.values()))]
        self.to_come = Counter(map(team_of, self.admitted))

    def limit(self, team: str) -> int:
        return self.policy.shares.get(team, 10**6)

    def share(self, team: str) -> int:
        return max(1, min(self.limit(team), self.policy.size))

    def _line(self) -> tuple[list[str], list[str]]:
        """Slot by slot: the team with the least of its share, or that had its last turn the longest ago."""
        arrival = {s.name: (s.waiting_since, s.name) for s in self.sessions if s.not_before <= self.now}
        waiting = [name for name in self.unserved if name in arrival]
        used, line = Counter(self.in_use), []
        while True:
            able = [name for name in waiting if name not in line and used[team_of(name)] < self.limit(team_of(name))]
            if not able:
                break
            heads = [
                min((n for n in able if team_of(n) == t), key=arrival.__getitem__) for t in set(map(team_of, able))
            ]
            head = min(heads, key=lambda n: (self._part(team_of(n), used), arrival[n]))
            line.append(head)
            used[team_of(head)] += 1
        return line, sorted((name for name in waiting if name not in line), key=arrival.__getitem__)

    def _part(self, team: str, used: Counter[str]) -> tuple[Fraction, float]:
        return Fraction(used[team], self.share(team)), self.policy.ended.get(team, -1.0)

    def check(self) -> None:
        self.turns()
        self.limits()
        self.yields()
        self.spares_whoever_waits_for_a_limit()

    def turns(self) -> None:
        assert [q.session for q in self.queue] == [n for n in (*self.line, *self.full) if n not in self.moved]
        line = [q for q in self.queue if not q.own]
        assert [q.position for q in line] == list(range(1, len(line) + 1))
        for team in TEAMS:
            own = [q.position for q in self.queue if q.own and team_of(q.session) == team]
            first = 1 + sum(team_of(q.session) == team for q in line)
            assert own == list(range(first, first + len(own)))
        assert {q.session for q in self.queue if q.own} == set(self.full)
        assert self.starts == [name for name in self.line if name in self.starts]
        assert set(self.moved) <= set(self.admitted), "past those who are next"
        given = self.has + Counter(map(team_of, self.moved))
        for name in self.line[: self.line.index(self.starts[-1])] if self.starts else ():
            at_limit = given[team_of(name)] >= self.limit(team_of(name))
            assert name in self.moved or name in self.held or at_limit, "a start past an earlier one"

    def limits(self) -> None:
        for team, moved in Counter(map(team_of, self.moved)).items():
            assert self.has[team] + moved <= self.limit(team), "more workers than the team's limit"
        for team in TEAMS:
            idle = sum(team_of(w.session) == team for w in self.kept_idle)
            taken = self.in_use[team] + self.to_come[team] + idle
            assert taken <= self.limit(team) or not idle, "something that may go was kept, and the team has no room"
        next_ = Counter(map(team_of, self.line))
        assert all(self.in_use[team_of(n)] + next_[team_of(n)] >= self.limit(team_of(n)) for n in self.full)

    def yields(self) -> None:
        """Worker by worker: those above their team's limit, the spares, those above their part, all others."""
        idle, expected = list(self.idle), []
        live = self.in_use + self.to_come + Counter(team_of(w.session) for w in idle)
        shares = sum(self.share(team) for team in self._present())

        def evict(worker: Worker) -> None:
            idle.remove(worker)
            expected.append(worker)
            live[team_of(worker.session)] -= 1

        while above := [w for w in idle if live[team_of(w.session)] > self.limit(team_of(w.session))]:
            evict(above[0])
        excess = sum(live.values()) + len(self.spares) - self.policy.size
        for _ in range(min(excess - len(self.spares), len(idle))):
            part = {team: Fraction(self.policy.size * self.share(team), shares) for team in TEAMS}
            over = [w for w in idle if live[team_of(w.session)] > part[team_of(w.session)]]
            evict((over or idle)[0])
        assert self.evicted == expected
        assert not any(self.kept_spares) or excess < len(self.spares)

    def _present(self) -> set[str]:
        waiting = {team_of(s.name) for s in self.sessions if s.waiting_since is not None}
        return waiting | {team_of(w.session) for w in self.workers if w.session}

    def spares_whoever_waits_for_a_limit(self) -> None:
        nobody = all(name in self.moved or name in self.full for name in self.unserved)
        assert nobody or not self.warm, "a spare while somebody waits for the pool's room"
        room = len(self.workers) + len(self.starts) + self.warm < self.policy.size
        due = self.policy.warm_not_before <= self.now
        lacking = len(self.kept_spares) + self.warm < self.policy.warm
        assert not (nobody and room and due and lacking), "no spare, though only teams at their limit wait"


def check(world: World) -> Case:
    case = Case(world)
    case.check()
    decision = world.decide()
    turned = decide(world.policy, world.sessions()[::-1], list(world.workers.values())[::-1], world.now)
    assert (Counter(turned.actions), turned.wake_at) == (Counter(decision.actions), decision.wake_at)
    assert sum(isinstance(a, Start | StartWarm) for a in decision.actions) == 0 or (
        len(world.workers) + len(case.starts) + case.warm <= world.policy.size
    )
    busy = {w.name for w in world.workers.values() if w.busy or w.session in world.waiting}
    assert not busy & {a.worker for a in decision.actions if isinstance(a, Drain)}
    world.apply(decision)
    again = world.decide()
    assert all(isinstance(a, Queue) for a in again.actions), "the same state gave a further action"
    assert again.wake_at == decision.wake_at
    return case
