"""The laws between teams: in a world where anything may happen, in states that no world led to, and under a flood."""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_operator.decide import (
    Claim,
    Decision,
    Drain,
    Policy,
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


def waits(name: str, since: float = 0.0, *, fresh: bool = True) -> Session:
    return Session(name, since, fresh, team=team_of(name))


def idle(session: str, last_active: float = 0.0, state: WorkerState = READY, *, busy: bool = False) -> Worker:
    return Worker(f"w-{session}", state, session, busy, last_active)


def rests(workers: Iterable[Worker]) -> list[Session]:
    return [Session(w.session, None, fresh=False, team=team_of(w.session)) for w in workers if w.session]


def decided(size: int, line: Sequence[Session], workers: Sequence[Worker], *, warm: int = 0, **shares: int) -> Decision:
    policy = Policy(size, warm, 0, shares=shares)
    return decide(policy, [*line, *rests(workers)], workers, now=100.0)


# -- by example ------------------------------------------------------------------------------------------------------


def test_the_team_with_the_fewest_workers_in_use_is_next_and_within_a_team_who_came_first() -> None:
    workers = [idle("a0", busy=True), idle("a1", busy=True), idle("b0", busy=True)]
    line = [waits("a2", 1), waits("a3", 2), waits("b2", 5), waits("b1", 4), waits("c0", 9)]
    tight = decided(3, line, workers)
    assert tight.actions == tuple(Queue(name, i) for i, name in enumerate(["c0", "b1", "a2", "b2", "a3"], 1))
    roomy = decided(5, line, workers)
    assert roomy.actions[:2] == (Start("c0"), Start("b1"))


def test_the_first_of_a_team_is_next_however_many_of_another_wait() -> None:
    workers = [idle(f"a{i}", busy=True) for i in range(3)]
    flood = [waits(f"a{i}", i) for i in range(10, 1000)]
    assert Queue("b0", 1) in decided(3, [*flood, waits("b0", 9999)], workers).actions
    freed = decided(3, [*flood, waits("b0", 9999)], [*workers[:2], idle("a2")]).actions
    assert freed[0] == Drain("w-a2", "evicted")
    assert Start("b0") in decided(3, [*flood, waits("b0", 9999)], workers[:2]).actions


def test_a_larger_share_gets_more_of_what_comes_free() -> None:
    line = [waits(f"{team}{i}", i) for i in range(9) for team in "ab"]
    started = [a.session for a in decided(9, line, [], a=6, b=3).actions if isinstance(a, Start)]
    assert Counter(map(team_of, started)) == {"a": 6, "b": 3}


def test_a_team_at_its_limit_waits_though_there_is_room_and_others_go_on() -> None:
    workers = [idle("a0", busy=True), idle("a1", busy=True)]
    decision = decided(6, [waits("a2", 1), waits("a3", 2), waits("b0", 3)], workers, warm=1, a=2)
    assert decision.actions == (Start("b0"), StartWarm(), Queue("a2", 1, own=True), Queue("a3", 2, own=True))


def test_at_its_limit_its_own_least_recently_active_makes_way() -> None:
    workers = [idle("a0", 30), idle("a1", 20), idle("b0", 10)]
    decision = decided(6, [waits("a2"), waits("a3", 1), waits("a4", 2)], workers, a=2)
    assert decision.actions == (
        Drain("w-a1", "evicted"), Drain("w-a0", "evicted"),
        Queue("a2", 1), Queue("a3", 2), Queue("a4", 3, own=True),
    )  # fmt: skip
    # Until it is gone it counts.
    leaving = [idle("a0", 30, busy=True), idle("a1", 20, WorkerState.TERMINATING)]
    assert decided(6, [waits("a2")], leaving, a=2).actions == (Queue("a2", 1),)


def test_a_lower_limit_lets_the_teams_idle_workers_go_and_keeps_busy_ones() -> None:
    workers = [idle("a0", 1, busy=True), idle("a1", 3), idle("a2", 2), idle("b0", 0)]
    assert decided(9, [], workers, a=2).actions == (Drain("w-a2", "evicted"),)


def test_a_full_pool_takes_first_from_those_who_have_more_than_their_part() -> None:
    workers = [idle("b0", 1), idle("b1", 2), idle("a0", 5), idle("a1", 4), idle("a2", 6), idle("a3", 3)]
    assert decided(6, [waits("c0")], workers).actions[0] == Drain("w-a3", "evicted")
    # Its own newcomer counts: it takes nothing from one that has no more than its part.
    workers = [idle("b0", 1), idle("b1", 2), idle("a0", 5), idle("a1", 4)]
    assert decided(4, [waits("a2")], workers).actions[0] == Drain("w-a1", "evicted")
    # Where nobody idles above the part, it is the least recently active again.
    workers = [idle("b0", 1), idle("a0", 5, busy=True), idle("a1", 4, busy=True), idle("a2", busy=True)]
    assert decided(4, [waits("a3")], workers).actions[0] == Drain("w-b0", "evicted")


def test_a_worker_whose_session_is_unknown_counts_for_the_pool() -> None:
    orphan = idle("a0", busy=True)
    decision = decide(Policy(2, 0, 0, shares={"a": 1}), [waits("a1"), waits("b0")], [orphan], now=0.0)
    assert decision.actions == (Start("a1"), Queue("b0", 1))


def test_ten_thousand_of_fifty_teams_are_decided_in_less_than_50_ms() -> None:
    sessions = [
        Session(f"c{i:05d}", float(i) if i % 10 == 0 else None, fresh=i % 20 == 0, team=f"t{i * 7 % 50}")
        for i in range(10_000)
    ]
    bound = [s.name for s in sessions if s.waiting_since is None]
    workers = [idle(name, float(i), busy=i % 3 == 0) for i, name in enumerate(bound)]
    policy = Policy(len(bound), 5, 0, shares={f"t{i}": 300 for i in range(0, 50, 2)})
    taken = []
    for _ in range(3):
        began = time.process_time()
        decide(policy, sessions, workers, 20_000.0)
        taken.append(time.process_time() - began)
    assert min(taken) < 0.05


# -- by law ----------------------------------------------------------------------------------------------------------


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

    def refuse(self, name: str) -> None:
        """A worker that was asked to drain has a turn already."""
        worker = self.workers[name]
        if worker.state is WorkerState.DRAINING and worker.session is not None:
            self.workers[name] = replace(worker, state=READY, busy=True, last_active=self.now)

    def without_a_turn_ending(self) -> Shared:
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


class Laws(RuleBasedStateMachine):
    """Events arrive; after each, decisions are taken, checked and applied."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Shared(Policy(size=4, warm=1, idle_timeout=60, shares={"a": 2}))

    @rule(session=st.sampled_from(CONVERSATIONS))
    def a_request_arrives(self, session: str) -> None:
        self.world.ask(session)

    @rule(team=st.sampled_from(TEAMS))
    def a_team_floods(self, team: str) -> None:
        for session in CONVERSATIONS:
            if team_of(session) == team:
                self.world.ask(session)

    @rule(session=st.sampled_from(CONVERSATIONS))
    def somebody_suspends(self, session: str) -> None:
        if any(w.session == session for w in self.world.workers.values()):
            self.world.suspending.add(session)

    @rule(seconds=st.sampled_from([0.1, 5, 61]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(size=st.integers(1, 7), warm=st.integers(0, 2))
    def the_pool_is_edited(self, size: int, warm: int) -> None:
        self.world.policy = replace(self.world.policy, size=size, warm=min(warm, size))

    @rule(shares=st.dictionaries(st.sampled_from(TEAMS), st.integers(1, 5)))
    def the_teams_are_edited(self, shares: dict[str, int]) -> None:
        self.world.policy = replace(self.world.policy, shares=shares)

    @rule(data=st.data(), what=st.sampled_from(["get on", "get on", "refuse", "die"]))
    @precondition(lambda self: self.world.workers)
    def something_happens_to_a_worker(self, data: st.DataObject, what: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.workers)))
        if what == "get on":
            self.world.become_ready(name)
            self.world.finish(name)
            self.world.go(name)
        else:
            getattr(self.world, what)(name)

    @rule()
    def turns_begin(self) -> None:
        self.world.serve()

    @invariant()
    def decisions_keep_the_laws(self) -> None:
        case = check(self.world)
        if case.queue:
            later = self.world.without_a_turn_ending()
            left = [name for name in case.admitted if name in later.waiting]
            assert not left, f"had room, got none: {left}"

    def teardown(self) -> None:
        world, waiting = self.world, set(self.world.waiting)
        served = world.settle()
        assert waiting <= set(served), f"never served: {waiting - set(served)}"
        has = Counter(team_of(w.session) for w in world.workers.values() if w.session)
        assert all(has[team] <= limit for team, limit in world.policy.shares.items())


Laws.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLaws = Laws.TestCase


@st.composite
def worlds(draw: st.DrawFn) -> Shared:
    """Any state that the types allow, also ones that nothing leads to; a session has one worker at most."""
    times = st.integers(0, 8).map(float)
    shares = draw(st.dictionaries(st.sampled_from(TEAMS), st.integers(0, 6)))
    policy = Policy(draw(st.integers(0, 8)), draw(st.integers(0, 3)), draw(st.sampled_from([0, 3, 60])), shares=shares)
    world = Shared(policy, now=draw(times))
    world.turns.ended = draw(st.dictionaries(st.sampled_from(TEAMS), times))
    bound = draw(st.lists(st.sampled_from(CONVERSATIONS), unique=True, max_size=9))
    owners: list[str | None] = [*bound, *[None] * draw(st.integers(0, 3))]
    states = st.sampled_from([READY] * 3 + list(WorkerState))
    for i, session in enumerate(owners):
        name, state = f"x{i}", draw(states)
        busy = session is not None and state is READY and draw(st.booleans())
        world.workers[name] = Worker(name, state, session, busy, draw(times), draw(st.booleans()))
    world.waiting = draw(st.dictionaries(st.sampled_from(CONVERSATIONS), times))
    world.suspending = draw(st.sets(st.sampled_from(CONVERSATIONS), max_size=2))
    world.not_before = draw(st.dictionaries(st.sampled_from(CONVERSATIONS), times, max_size=3))
    world.known = draw(st.sets(st.sampled_from(CONVERSATIONS)))
    return world


@settings(max_examples=600, deadline=None)
@given(worlds())
def test_the_laws_hold_in_any_state(world: Shared) -> None:
    check(world)


@settings(max_examples=300, deadline=None)
@given(worlds(), st.sampled_from([{}, {"t": 10**6}]))
def test_one_team_alone_has_the_pool_as_if_there_were_none(world: Shared, shares: dict[str, int]) -> None:
    sessions, workers = world.sessions(), list(world.workers.values())
    nobody = [replace(s, team="") for s in sessions]
    team = [replace(s, team="t") for s in sessions]
    without = decide(replace(world.policy, shares={}), nobody, workers, world.now)
    assert decide(replace(world.policy, shares=shares), team, workers, world.now) == without


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32), st.dictionaries(st.sampled_from("af"), st.integers(1, 6)))
def test_a_flood_gets_one_slot_at_most_before_the_first_of_another_team(
    size: int, seed: int, shares: dict[str, int]
) -> None:
    """At any moment of a flood that never ends, a team that has none in use asks once."""
    draw = random.Random(seed)
    world = Shared(Policy(size, 0, 60, shares=shares))
    flooding = (f"f{i:04d}" for i in range(10_000))

    def step() -> Decision:
        while sum(team_of(name) == "f" for name in world.waiting) < 20:
            world.ask(next(flooding))
        for name in draw.sample(sorted(world.workers), len(world.workers)):
            if draw.random() < 0.3:
                world.become_ready(name)
                world.finish(name)
            elif world.workers[name].state not in RUNNING:
                world.go(name)
        world.serve()
        world.now += draw.choice([0.1, 5.0])
        decision = world.decide()
        world.apply(decision)
        return decision

    for _ in range(draw.randrange(30)):
        step()
    world.ask("a0")
    passed = 0
    for _ in range(1000):
        got = [a.session for a in step().actions if isinstance(a, Start | Claim)]
        if "a0" in got:
            break
        passed += len(got)
    else:
        pytest.fail("starved")
    assert passed <= 1


def test_two_that_flood_get_the_same_and_one_that_asks_now_and_then_never_waits_for_their_lines() -> None:
    draw, world = random.Random(1), Shared(Policy(size=6, warm=0, idle_timeout=0))
    numbers, given_room, waited = iter(range(10**6)), Counter[str](), []
    for round_ in range(3000):
        for team in "ab":
            while sum(team_of(name) == team for name in world.waiting) < (50 if team == "a" else 10):
                world.ask(f"{team}{next(numbers)}")
        if round_ % 30 == 0:
            world.ask(f"c{next(numbers)}")
            asked = round_
        for name in list(world.workers):
            world.become_ready(name)
            if world.workers[name].state not in RUNNING:
                world.go(name)
        for name in draw.sample(sorted(world.workers), 1) if world.workers else ():
            world.finish(name)
        world.serve()
        world.now += 1
        decision = world.decide()
        world.apply(decision)
        for session in (a.session for a in decision.actions if isinstance(a, Start)):
            given_room[team_of(session)] += 1
            if team_of(session) == "c":
                waited.append(round_ - asked)
    assert abs(given_room["a"] - given_room["b"]) <= 6
    assert len(waited) == 100
    # One turn ends in a round or the next, and its worker takes two to go.
    assert max(waited) < 12
