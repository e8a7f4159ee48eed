"""The policy by example."""

from __future__ import annotations

import time

from claude_operator.decide import (
    Claim,
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

READY, STARTING = WorkerState.READY, WorkerState.STARTING
DRAINING, TERMINATING = WorkerState.DRAINING, WorkerState.TERMINATING
POOL = Policy(size=2, warm=0, idle_timeout=300)


def idle(name: str, last_active: float = 0.0, state: WorkerState = READY, **changes: bool) -> Worker:
    return Worker(name, state, session=f"s-{name}", last_active=last_active, **changes)


def spare(name: str, state: WorkerState = READY, **changes: bool) -> Worker:
    return Worker(name, state, session=None, **changes)


def waits(name: str, since: float = 0.0, *, fresh: bool = True, not_before: float = 0.0) -> Session:
    return Session(name, since, fresh, not_before=not_before)


def rests(*workers: Worker) -> list[Session]:
    """The sessions of workers that nobody waits for."""
    return [Session(w.session, None, fresh=False) for w in workers if w.session]


def test_a_new_conversation_claims_a_ready_spare_before_a_starting_one() -> None:
    pool = Policy(size=3, warm=2, idle_timeout=300)
    decision = decide(pool, [waits("a")], [spare("w1", STARTING), spare("w2")], now=0)
    assert decision.actions == (Claim("a", "w2"), StartWarm())


def test_a_resumed_conversation_needs_a_worker_on_its_own_volume() -> None:
    decision = decide(Policy(3, 1, 300), [waits("a", fresh=False)], [spare("w1")], now=0)
    assert decision.actions == (Start("a"),)


def test_a_spare_makes_room_for_a_conversation_that_cannot_claim_it() -> None:
    busy = idle("w1", busy=True)
    decision = decide(Policy(2, 1, 300), [waits("a", fresh=False), *rests(busy)], [busy, spare("w2")], now=0)
    assert decision.actions == (Drain("w2", "surplus"), Queue("a", 1))


def test_the_least_recently_active_idle_worker_makes_room_and_a_busy_one_never_does() -> None:
    workers = [idle("w1", 10, busy=True), idle("w2", 30), idle("w3", 20)]
    decision = decide(Policy(3, 0, 300), [waits("a"), *rests(*workers)], workers, now=40)
    assert decision.actions == (Drain("w3", "evicted"), Queue("a", 1))


def test_leaving_workers_are_room_to_come() -> None:
    for state in (DRAINING, TERMINATING):
        workers = [idle("w1", 10, state), idle("w2", 20)]
        decision = decide(POOL, [waits("a"), *rests(*workers)], workers, now=40)
        assert decision.actions == (Queue("a", 1),)


def test_when_all_are_busy_those_who_wait_stand_in_line() -> None:
    workers = [idle("w1", busy=True), idle("w2", busy=True)]
    line = [waits("late", 9), waits("early", 1)]
    decision = decide(POOL, [*line, *rests(*workers)], workers, now=10)
    assert decision.actions == (Queue("early", 1), Queue("late", 2))


def test_a_worker_that_someone_waits_for_is_neither_idle_nor_evicted() -> None:
    worker = idle("w1", 0)
    sessions = [Session("s-w1", 999.0, fresh=False), waits("b", 999)]
    decision = decide(Policy(1, 0, 300), sessions, [worker], now=1000)
    assert decision.actions == (Queue("b", 1),)


def test_idle_workers_go_at_their_time_and_not_before() -> None:
    workers = [idle("w1", 100), idle("w2", 50)]
    early = decide(POOL, rests(*workers), workers, now=349)
    assert (early.actions, early.wake_at) == ((), 350)
    assert decide(POOL, rests(*workers), workers, now=350).actions == (Drain("w2", "idle"),)
    assert decide(Policy(2, 0, 0), rests(*workers), workers, now=10**9).actions == ()


def test_spares_are_kept_inside_the_size_and_only_when_nobody_waits() -> None:
    pool = Policy(size=2, warm=2, idle_timeout=300)
    assert decide(pool, [], [], now=0).actions == (StartWarm(), StartWarm())
    busy = idle("w1", busy=True)
    assert decide(pool, rests(busy), [busy], now=0).actions == (StartWarm(),)
    both = [busy, idle("w2", busy=True)]
    assert decide(pool, [waits("a"), *rests(*both)], both, now=0).actions == (Queue("a", 1),)


def test_spares_that_die_unclaimed_are_not_started_again_before_their_back_off() -> None:
    pool = Policy(size=2, warm=1, idle_timeout=300, warm_not_before=10)
    early = decide(pool, [], [], now=5)
    assert (early.actions, early.wake_at) == ((), 10)
    assert decide(pool, [], [], now=10).actions == (StartWarm(),)
    assert decide(pool, [waits("a")], [], now=5).actions == (Start("a"),)


def test_spares_above_warm_go_starting_ones_first() -> None:
    workers = [spare("w1"), spare("w2", STARTING), spare("w3", stale=True)]
    drains = decide(Policy(3, 1, 300), [], workers, now=0).actions
    assert drains == (Drain("w3", "stale"), Drain("w2", "surplus"))


def test_a_fresh_conversation_claims_a_spare_past_an_earlier_one_only_if_that_one_has_room_too() -> None:
    line = [waits("early", 1, fresh=False), waits("late", 2)]
    busy, other = idle("w1", busy=True), idle("w2")
    tight = decide(POOL, [*line, *rests(busy)], [busy, spare("w3")], now=5)
    assert tight.actions == (Drain("w3", "surplus"), Queue("early", 1), Queue("late", 2))
    roomy = decide(POOL, [*line, *rests(other)], [other, spare("w3")], now=5)
    assert roomy.actions == (Claim("late", "w3"), Drain("w2", "evicted"), Queue("early", 1))


def test_a_smaller_pool_lets_idle_workers_go_and_keeps_busy_ones() -> None:
    workers = [idle("w1", 1, busy=True), idle("w2", 3), idle("w3", 2)]
    assert decide(Policy(2, 0, 300), rests(*workers), workers, now=5).actions == (Drain("w3", "evicted"),)
    assert decide(Policy(1, 0, 300), rests(*workers), workers, now=5).actions == (
        Drain("w3", "evicted"),
        Drain("w2", "evicted"),
    )


def test_stale_workers_are_replaced_one_at_a_time_and_never_claimed() -> None:
    workers = [idle("w1", 1, stale=True), idle("w2", 2, stale=True)]
    assert decide(POOL, rests(*workers), workers, now=5).actions == (Drain("w1", "stale"),)
    both = [workers[0], spare("w3", stale=True)]
    assert decide(Policy(2, 1, 300), rests(*both), both, now=5).actions == (Drain("w3", "stale"),)
    leaving = [idle("w1", 1, DRAINING, stale=True), workers[1]]
    assert decide(POOL, rests(*leaving), leaving, now=5).actions == ()
    assert Claim("a", "w1") not in decide(Policy(2, 1, 300), [waits("a")], [spare("w1", stale=True)], now=0).actions


def test_a_requested_suspension_waits_for_the_turn() -> None:
    asked = Session("s-w1", None, fresh=False, suspend_requested=True)
    assert decide(POOL, [asked], [idle("w1", busy=True)], now=0).actions == ()
    assert decide(POOL, [asked], [idle("w1")], now=0).actions == (Drain("w1", "requested"),)


def test_a_turn_that_waits_for_its_clients_tools_is_not_waited_for_when_asked_to_suspend() -> None:
    parked = idle("w1", busy=True, parked=True)
    asked = Session("s-w1", None, fresh=False, suspend_requested=True)
    assert decide(POOL, [asked], [parked], now=0).actions == (Drain("w1", "requested"),)
    assert decide(Policy(1, 0, 1), [*rests(parked), waits("a")], [parked], now=99).actions[0] != Drain("w1", "idle")
    assert not any(isinstance(a, Drain) for a in decide(Policy(1, 0, 1), [*rests(parked)], [parked], now=99).actions)


def test_a_suspended_conversation_that_waits_is_served_first() -> None:
    asked = Session("s-w1", 1.0, fresh=False, suspend_requested=True)
    assert decide(POOL, [asked], [], now=2).actions == (Start("s-w1"),)
    assert decide(POOL, [asked], [idle("w1")], now=2).actions == ()


def test_a_conversation_that_failed_to_start_is_tried_again_after_its_back_off() -> None:
    session = waits("a", fresh=False, not_before=10)
    waiting = decide(POOL, [session], [], now=5)
    assert (waiting.actions, waiting.wake_at) == ((), 10)
    assert decide(POOL, [session], [], now=10).actions == (Start("a"),)


def test_a_worker_that_leaves_is_waited_for_before_its_conversation_gets_another() -> None:
    decision = decide(POOL, [Session("s-w1", 1.0, fresh=False)], [idle("w1", state=DRAINING)], now=2)
    assert decision.actions == (Queue("s-w1", 1),)


def test_a_thousand_of_each_are_decided_in_milliseconds() -> None:
    workers = [idle(f"w{i}", i, busy=i % 3 == 0) for i in range(1000)]
    sessions = [waits(f"n{i}", i) for i in range(1000)] + rests(*workers)
    taken = []
    for _ in range(5):
        began = time.process_time()
        decide(Policy(1000, 10, 300), sessions, workers, now=1200)
        taken.append(time.process_time() - began)
    assert sorted(taken)[2] < 0.05
