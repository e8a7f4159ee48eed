"""The laws between teams: in a world where anything may happen, in states that no world led to, and under a flood."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_operator.decide import (
    Claim,
    Decision,
    Policy,
    Start,
    Worker,
    WorkerState,
    decide,
)  # fmt: skip
from operator_team_laws import CONVERSATIONS, READY, TEAMS, Shared, check, team_of
from operator_world import RUNNING


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
