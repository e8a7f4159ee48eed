"""Between teams, by example."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from claude_operator.decide import (
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
from operator_team_laws import READY, team_of


def waits(name: str, since: float = 0.0, *, fresh: bool = True) -> Session:
    return Session(name, since, fresh, team=team_of(name))


def idle(session: str, last_active: float = 0.0, state: WorkerState = READY, *, busy: bool = False) -> Worker:
    return Worker(f"w-{session}", state, session, busy, last_active)


def rests(workers: Iterable[Worker]) -> list[Session]:
    return [Session(w.session, None, fresh=False, team=team_of(w.session)) for w in workers if w.session]


def decided(size: int, line: Sequence[Session], workers: Sequence[Worker], *, warm: int = 0, **shares: int) -> Decision:
    policy = Policy(size, warm, 0, shares=shares)
    return decide(policy, [*line, *rests(workers)], workers, now=100.0)


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
