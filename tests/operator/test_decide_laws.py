"""The policy's laws, in a world where anything may happen in any order."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_operator.decide import Claim, Drain, Policy, Queue, Start, StartWarm, WorkerState
from operator_world import RUNNING, World

CONVERSATIONS = [f"c{i}" for i in range(8)]


class Laws(RuleBasedStateMachine):
    """Events arrive; after each, decisions are taken, checked and applied."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Policy(size=3, warm=1, idle_timeout=60))

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

    @rule(size=st.integers(1, 5), warm=st.integers(0, 2))
    def the_pool_is_edited(self, size: int, warm: int) -> None:
        self.world.policy = Policy(size, min(warm, size), 60)

    @rule(data=st.data(), what=st.sampled_from(["ready", "finish", "go", "die"]))
    @precondition(lambda self: self.world.workers)
    def something_happens_to_a_worker(self, data: st.DataObject, what: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.workers)))
        {"ready": self.world.become_ready, "finish": self.world.finish, "go": self.world.go, "die": self.world.die}[
            what
        ](name)

    @rule()
    def turns_begin(self) -> None:
        self.world.serve()

    # -- laws ----------------------------------------------------------------------------------------------------

    @invariant()
    def decisions_keep_the_laws(self) -> None:
        world = self.world
        before, live = dict(world.workers), len(world.workers)
        decision = world.decide()
        drains = [a.worker for a in decision.actions if isinstance(a, Drain)]
        claims = [a for a in decision.actions if isinstance(a, Claim)]
        starts = [a for a in decision.actions if isinstance(a, Start)]

        assert not any(before[name].busy for name in drains), "a busy worker was drained"
        assert not any(before[name].session in world.waiting for name in drains if before[name].session)
        touched = Counter(drains + [c.worker for c in claims])
        assert all(n == 1 for n in touched.values()), "a worker got two actions"
        assert all(before[name].state in RUNNING for name in touched)
        self._least_recently_active_first(drains)
        self._in_order([s.session for s in starts])

        world.apply(decision)
        assert len(world.workers) <= max(world.policy.size, live), "more workers than the pool's size"
        again = world.decide()
        assert all(isinstance(a, Queue) for a in again.actions), "the same state gave a further action"
        if any(isinstance(a, StartWarm) for a in decision.actions):
            assert not any(isinstance(a, Queue) for a in decision.actions), "a spare while somebody waits"
        assert decision.wake_at is None or decision.wake_at > world.now

    def _least_recently_active_first(self, drains: list[str]) -> None:
        world = self.world
        evicted = {
            a.worker for a in world.decide().actions if isinstance(a, Drain) and a.reason == "evicted"
        }  # fmt: skip
        kept = [
            w for n, w in world.workers.items()
            if n not in drains and w.state is WorkerState.READY and w.session and not w.busy
            and w.session not in world.waiting
        ]  # fmt: skip
        for name in evicted:
            assert all(world.workers[name].last_active <= w.last_active for w in kept)

    def _in_order(self, started: list[str]) -> None:
        since = [self.world.waiting[s] for s in started]
        assert since == sorted(since)

    def teardown(self) -> None:
        """Once everything that runs comes to its end, everybody who waits is served."""
        waiting = set(self.world.waiting)
        served = self.world.settle()
        assert waiting <= set(served), f"never served: {waiting - set(served)}"
        assert not self.world.waiting
        assert len(self.world.workers) <= max(self.world.policy.size, 1)


Laws.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestLaws = Laws.TestCase
