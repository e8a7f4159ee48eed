"""The policy's laws: in a world where anything may happen in any order, and in states that no world led to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from operator_world import RUNNING, World

CONVERSATIONS = [f"c{i}" for i in range(8)]
BACK_OFF = 10


@dataclass
class TroubledWorld(World):
    """One whose workers also die for a reason, and come from outdated templates."""

    def fail(self, name: str) -> None:
        """A worker dies, and what it was for is not tried again at once."""
        session = self.workers[name].session
        self.die(name)
        if session is None:
            self.policy = replace(self.policy, warm_not_before=self.now + BACK_OFF)
        else:
            self.not_before[session] = self.now + BACK_OFF

    def outdate(self) -> None:
        """The template changes."""
        self.workers = {name: replace(w, stale=True) for name, w in self.workers.items()}

    def back_offs_end(self) -> None:
        self.now = max([self.now, self.policy.warm_not_before, *self.not_before.values()])


class Case:
    """A state with what was decided about it, told in the words of the laws; `check` holds it against them."""

    def __init__(self, policy: Policy, sessions: Sequence[Session], workers: Sequence[Worker], now: float) -> None:
        self.policy, self.sessions, self.workers, self.now = policy, sessions, workers, now
        self.decision = decide(policy, sessions, workers, now)
        actions = self.decision.actions
        self.claims = [a for a in actions if isinstance(a, Claim)]
        self.starts = [a.session for a in actions if isinstance(a, Start)]
        self.drains = [a for a in actions if isinstance(a, Drain)]
        self.queue = [a for a in actions if isinstance(a, Queue)]
        self.warm = sum(isinstance(a, StartWarm) for a in actions)

        self.worker = {w.name: w for w in workers}
        self.session = {s.name: s for s in sessions}
        self.waited_for = {s.name for s in sessions if s.waiting_since is not None}
        self.running = [w for w in workers if w.state in RUNNING]
        has_worker = {w.session for w in self.running}
        self.held = {w.session for w in workers} - has_worker
        self.unserved = [s for s in sessions if s.name in self.waited_for - has_worker]
        self.line = [s.name for s in sorted(self.unserved, key=_place) if s.not_before <= now]

        moved = {d.worker for d in self.drains} | {c.worker for c in self.claims}
        self.kept = [w for w in self.running if w.name not in moved]
        free = [w for w in self.kept if not w.busy and w.session not in self.waited_for]
        self.spares = [w for w in free if w.session is None]
        self.idle = [w for w in free if w.session is not None and w.state is WorkerState.READY]
        self.pinned = len(self.kept) - len(self.spares) - len(self.idle)
        # Those in the line who have room, free or on its way.
        self.admitted = self.line[: max(0, policy.size - self.pinned)]

    def drained(self, *reasons: str) -> list[Worker]:
        return [self.worker[d.worker] for d in self.drains if d.reason in reasons]

    def check(self) -> None:
        self.size()
        self.safety()
        self.order()
        self.progress_and_shrink()
        self.thrift()
        self.spares_only_in_free_room()
        self.age()
        self.does_not_depend_on_the_order_of_its_input()

    def size(self) -> None:
        started = len(self.starts) + self.warm
        assert started == 0 or len(self.workers) + started <= self.policy.size, "more workers than the pool's size"

    def safety(self) -> None:
        for d in self.drains:
            w = self.worker[d.worker]
            assert not w.busy or (w.parked and d.reason == "requested"), "a busy worker was drained"
            assert self.worker[d.worker].session not in self.waited_for, "a worker that someone waits for was drained"
        touched = Counter([d.worker for d in self.drains] + [c.worker for c in self.claims])
        assert all(n == 1 for n in touched.values()), "a worker got two actions"
        assert all(self.worker[name].state in RUNNING for name in touched), "a leaving worker got an action"
        for c in self.claims:
            spare = self.worker[c.worker]
            assert (spare.session, spare.busy, spare.stale) == (None, False, False), "not a spare to claim"
            assert self.session[c.session].fresh, "a session with a volume got a spare"
        given = [c.session for c in self.claims] + self.starts
        assert not set(given) & {w.session for w in self.workers}, "a session got a second worker"

    def order(self) -> None:
        moved = [c.session for c in self.claims] + self.starts
        in_line = [q.session for q in self.queue]
        assert sorted(moved + in_line) == sorted(self.line), "each in the line gets a worker or a place"
        assert in_line == [name for name in self.line if name in in_line]
        assert [q.position for q in self.queue] == list(range(1, len(in_line) + 1))
        starts = [name for name in self.line if name in self.starts]
        assert self.starts == starts
        if starts:
            earlier = self.line[: self.line.index(starts[-1])]
            assert all(name in moved or name in self.held for name in earlier), "a start past an earlier one"
        assert all(c.session in self.admitted for c in self.claims), "a claim past an earlier one without room"

    def progress_and_shrink(self) -> None:
        """Both are the same law: those who are to have room fit, or nothing that may be drained is left."""
        excess = self.pinned + len(self.admitted) + len(self.spares) + len(self.idle) - self.policy.size
        assert excess <= 0 or not (self.spares or self.idle), "something that may go was kept, and there is no room"
        evicted = self.drained("evicted")
        assert not evicted or not self.spares, "a spare outlived an idle worker"
        surplus = self.drained("surplus")
        if surplus:
            last_to_go = max(_usefulness(w) for w in surplus)
            assert all(last_to_go <= _usefulness(w) for w in self.spares), "not the least useful spare"
        if evicted:
            last = max((w.last_active, w.name) for w in evicted)
            assert all(last < (w.last_active, w.name) for w in self.idle), "not the least recently active"

    def thrift(self) -> None:
        # What goes for its age goes last: until then it takes room.
        evicted, surplus = self.drained("evicted"), self.drained("surplus")
        taken = self.pinned + len(self.admitted) + len(self.idle) + len(self.spares) + len(self.drained("stale"))
        needed = taken >= self.policy.size
        assert not evicted or needed, "an idle worker was drained beyond the need"
        assert not surplus or needed or len(self.spares) >= self.policy.warm, "a spare was drained beyond the need"
        assert all(w.session is not None for w in evicted)
        assert all(w.session is None for w in surplus)

    def spares_only_in_free_room(self) -> None:
        moved = {c.session for c in self.claims} | set(self.starts)
        nobody_waits = all(s.name in moved for s in self.unserved)
        full = len(self.workers) + len(self.starts) + self.warm >= self.policy.size
        due = self.policy.warm_not_before <= self.now
        if self.warm:
            assert nobody_waits, "a spare while somebody waits"
            assert due, "a spare during the back-off"
            assert not self.drained("evicted", "surplus"), "a spare by eviction"
        assert len(self.spares) <= self.policy.warm, "too many spares"
        assert len(self.spares) + self.warm <= self.policy.warm, "too many spares"
        assert full or not nobody_waits or not due or len(self.spares) + self.warm == self.policy.warm, "no spare"

    def age(self) -> None:
        timeout = self.policy.idle_timeout
        for w in self.drained("idle"):
            assert timeout > 0, "idle workers go in a pool where they never do"
            assert w.last_active + timeout <= self.now, "an idle worker went early"
        for w in self.idle:
            assert timeout == 0 or w.last_active + timeout > self.now, "an idle worker stayed"
        asked = {s.name for s in self.sessions if s.suspend_requested}
        assert all(w.session in asked for w in self.drained("requested"))
        free = [w for w in self.kept if w.session not in self.waited_for and (w.parked or not w.busy)]
        assert not any(w.session in asked for w in free)

        stale = self.drained("stale")
        kept = {w.name for w in self.kept}
        # Spares above `warm` go all at once, whatever their age: nothing replaces them.
        above_warm = self.drained("surplus") if len(self.spares) == self.policy.warm else []
        others = [w for w in self.workers if w.stale and w.name not in kept and w not in stale + above_warm]
        replaceable = [w for w in self.spares + self.idle if w.stale]
        assert len(stale) <= 1, "stale ones go one at a time"
        assert not stale or not others, "a stale one goes while another leaves"
        assert stale or others or above_warm or not replaceable, "no stale one goes"
        assert all(w.stale for w in stale)
        if any(w.session is not None for w in stale):
            assert not any(w.session is None for w in replaceable), "stale spares go first"

    def does_not_depend_on_the_order_of_its_input(self) -> None:
        turned = decide(self.policy, self.sessions[::-1], self.workers[::-1], self.now)
        assert Counter(turned.actions) == Counter(self.decision.actions)
        assert turned.wake_at == self.decision.wake_at


def check(world: World) -> Case:
    """Holds what this world decides against the laws, applies it, and looks again."""
    case = Case(world.policy, world.sessions(), list(world.workers.values()), world.now)
    case.check()
    world.apply(case.decision)
    assert world.decide().wake_at == case.decision.wake_at, "woken at another time than the state asks for"
    rest(world)
    return case


def rest(world: World) -> None:
    """Nothing further follows until `wake_at`, and then something does."""
    now, again = world.now, world.decide()
    assert all(isinstance(a, Queue) for a in again.actions), "the same state gave a further action"
    assert again.wake_at is None or again.wake_at > now
    try:
        world.now = 1e6 if again.wake_at is None else (now + again.wake_at) / 2
        assert world.decide() == again, "something follows before wake_at"
        if again.wake_at is not None:
            world.now = again.wake_at
            assert world.decide().actions != again.actions, "woken for nothing"
    finally:
        world.now = now


def _place(session: Session) -> tuple[float, str]:
    assert session.waiting_since is not None
    return session.waiting_since, session.name


def _usefulness(spare: Worker) -> tuple[bool, bool]:
    return not spare.stale, spare.state is WorkerState.READY


class Laws(RuleBasedStateMachine):
    """Events arrive; after each, decisions are taken, checked and applied."""

    def __init__(self) -> None:
        super().__init__()
        self.world = TroubledWorld(Policy(size=3, warm=1, idle_timeout=60))

    # -- events --------------------------------------------------------------------------------------------------

    @rule(session=st.sampled_from(CONVERSATIONS))
    def a_request_arrives(self, session: str) -> None:
        self.world.ask(session)

    @rule(session=st.sampled_from(CONVERSATIONS))
    def somebody_suspends(self, session: str) -> None:
        if any(w.session == session for w in self.world.workers.values()):
            self.world.suspending.add(session)

    @rule(seconds=st.sampled_from([0.1, 5, 59, 61]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(size=st.integers(1, 5), warm=st.integers(0, 2), idle_timeout=st.sampled_from([60, 60, 0]))
    def the_pool_is_edited(self, size: int, warm: int, idle_timeout: float) -> None:
        world = self.world
        world.policy = replace(world.policy, size=size, warm=min(warm, size), idle_timeout=idle_timeout)

    @rule()
    def the_template_changes(self) -> None:
        self.world.outdate()

    @rule(data=st.data())
    @precondition(lambda self: self.world.workers)
    def a_worker_gets_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.workers)))
        self.world.become_ready(name)
        self.world.finish(name)
        self.world.go(name)

    @rule(data=st.data(), what=st.sampled_from(["refuse", "refuse", "die", "fail"]))
    @precondition(lambda self: self.world.workers)
    def a_worker_is_in_trouble(self, data: st.DataObject, what: str) -> None:
        getattr(self.world, what)(data.draw(st.sampled_from(sorted(self.world.workers))))

    @rule()
    def turns_begin(self) -> None:
        self.world.serve()

    @rule()
    def turns_begin_and_end(self) -> None:
        for name in self.world.workers:
            self.world.become_ready(name)
        self.world.serve()
        for name in self.world.workers:
            self.world.finish(name)

    # -- laws ----------------------------------------------------------------------------------------------------

    @invariant()
    def decisions_keep_the_laws(self) -> None:
        case = check(self.world)
        if case.queue:
            self._whoever_has_room_needs_no_turn_to_end(case.admitted)

    def _whoever_has_room_needs_no_turn_to_end(self, admitted: list[str]) -> None:
        later = self.world.without_a_turn_ending()
        left = [name for name in admitted if name in later.waiting]
        assert not left, f"had room, got none: {left}"

    def teardown(self) -> None:
        """Once everything that runs comes to its end, everybody who waits is served; and then the pool is at rest."""
        world = self.world
        waiting = set(world.waiting)
        world.back_offs_end()
        served = world.settle()
        assert waiting <= set(served), f"never served: {waiting - set(served)}"
        assert not world.waiting
        assert len(world.workers) <= world.policy.size
        if world.policy.idle_timeout:
            world.now += world.policy.idle_timeout
            world.settle()
        assert not any(w.stale for w in world.workers.values())
        spares = sum(w.session is None for w in world.workers.values())
        assert spares == min(world.policy.warm, world.policy.size - len(world.workers) + spares)
        assert spares == len(world.workers) or not world.policy.idle_timeout


Laws.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLaws = Laws.TestCase


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any state that the types allow, also ones that nothing leads to; a session has one worker at most."""
    times = st.integers(0, 8).map(float)
    size = draw(st.integers(0, 6))
    policy = Policy(size, draw(st.integers(0, 3)), draw(st.sampled_from([0, 3, 60])), draw(times))
    world = World(policy, now=draw(times))
    bound = draw(st.lists(st.sampled_from(CONVERSATIONS), unique=True, max_size=6))
    owners: list[str | None] = [*bound, *[None] * draw(st.integers(0, 4))]
    states = st.sampled_from([WorkerState.READY] * 3 + list(WorkerState))
    for i, session in enumerate(owners):
        name, state = f"x{i}", draw(states)
        busy = session is not None and state is WorkerState.READY and draw(st.booleans())
        stale, parked = draw(st.booleans()), busy and draw(st.booleans())
        world.workers[name] = Worker(name, state, session, busy, draw(times), stale, parked)
    world.waiting = draw(st.dictionaries(st.sampled_from(CONVERSATIONS), times))
    world.suspending = draw(st.sets(st.sampled_from(CONVERSATIONS), max_size=2))
    world.not_before = draw(st.dictionaries(st.sampled_from(CONVERSATIONS), times, max_size=3))
    world.known = draw(st.sets(st.sampled_from(CONVERSATIONS)))
    return world


@settings(max_examples=600, deadline=None)
@given(worlds())
def test_the_laws_hold_in_any_state(world: World) -> None:
    check(world)
