"""How a request asks for a worker: examples, and that no ask is lost, however late anyone sees anything."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_crds import asks
from claude_crds.resources import Desired, Phase
from claude_crds.views import ClaudeSession
from crds.fake_api import Json, merge
from crds.harness import read

NOW = time.time()


def session(
    phase: str = "", *, generation: int = 1, observed: int = 0, desired: str = "Running", deleted: str | None = None
) -> ClaudeSession:
    return read(
        {
            "metadata": {"name": "s", "generation": generation, "deletionTimestamp": deleted},
            "spec": {"conversationID": "c", "desiredState": desired},
            "status": {"phase": phase, "observedGeneration": observed},
        }
    )


def test_a_new_session_is_an_ask() -> None:
    assert asks.asked(session(), NOW)
    assert not asks.must_ask(session())


@pytest.mark.parametrize("phase", [Phase.SUSPENDED, Phase.SUSPENDING, Phase.FAILED])
def test_without_a_worker_a_change_of_spec_is_an_ask_until_a_status_answers_it(phase: Phase) -> None:
    answered = session(phase, generation=3, observed=3)
    assert not asks.asked(answered, NOW)
    assert asks.must_ask(answered)
    changed = session(phase, generation=4, observed=3)
    assert asks.asked(changed, NOW)
    assert not asks.must_ask(changed)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.STARTING])
@pytest.mark.parametrize("desired", ["Running", "Suspended"])
def test_an_ask_that_is_taken_up_waits_whatever_else_is_wished(phase: Phase, desired: str) -> None:
    taken_up = session(phase, generation=4, observed=4, desired=desired)
    assert asks.asked(taken_up, NOW)
    assert not asks.must_ask(taken_up)


def test_a_worker_needs_no_ask() -> None:
    assert not asks.must_ask(session(Phase.READY, generation=3, observed=3))


def test_suspended_by_a_person_it_is_not_asked_for_until_a_request_asks() -> None:
    wished = session(Phase.SUSPENDED, generation=4, observed=3, desired="Suspended")
    assert not asks.asked(wished, NOW)
    assert asks.must_ask(wished)
    assert asks.ask(NOW)["spec"]["desiredState"] == "Running"
    assert "desiredState" not in asks.renewal(NOW)["spec"]


def test_a_session_that_is_being_deleted_neither_waits_nor_can_be_asked_for() -> None:
    at = "2030-01-01T00:00:00Z"
    assert not asks.asked(session(deleted=at), NOW)
    assert not asks.asked(session(Phase.QUEUED, deleted=at), NOW)
    assert not asks.must_ask(session(Phase.SUSPENDED, generation=2, observed=2, deleted=at))


@pytest.mark.parametrize(("age", "live"), [(5.0, True), (asks.RESTORED_SECONDS + 1, False)])
def test_a_session_out_of_a_backup_is_no_ask(age: float, live: bool) -> None:
    body = {
        "metadata": {"name": "s", "generation": 1},
        "spec": {"conversationID": "c", **asks.ask(NOW - age)["spec"]},
    }
    assert asks.asked(read(body), NOW) == live
    suspended: Json = {**body, "status": {"phase": "Suspended", "observedGeneration": 0}}
    assert asks.asked(read(suspended), NOW), "only without a status"


def test_failed_answers_the_asks_that_it_has_seen() -> None:
    failed = session(Phase.FAILED, generation=5, observed=4)
    assert asks.answered(failed, 4)
    assert not asks.answered(failed, 5)


def test_two_asks_of_one_second_are_two_changes() -> None:
    assert asks.ask(NOW) != asks.ask(NOW + 0.001)


# --- the protocol, with everyone late


@dataclass
class Party:
    """Somebody with a copy of the object, which may be old."""

    seen: int = 0
    waiting: bool = False


@dataclass
class World:
    """One session; its server, an operator, two routers, a person. `history` is the object at each version."""

    history: list[ClaudeSession] = field(default_factory=lambda: [session(generation=1)])
    worker: bool = False
    operator: Party = field(default_factory=Party)
    routers: tuple[Party, Party] = field(default_factory=lambda: (Party(), Party()))
    clock: float = NOW
    asked_once: int = 0
    """Generation of an ask that nobody will repeat; 0 for none. A router repeats its own for as long as it waits."""
    decided: int = 0
    """Newest generation that the operator had seen while the session had a worker, or when it started one."""

    def patch(self, party: Party, body: Json) -> None:
        """As the API server does it; the answer is the newest object, and the party has it."""
        self.clock += 0.5
        old = self.history[-1]
        half = {"metadata": {"name": "s"}, "spec": _raw(old)["spec"], "status": _raw(old)["status"]}
        new = merge(half, body)
        generation = old.metadata.generation + (new["spec"] != half["spec"])
        self.history.append(read({**new, "metadata": {"name": "s", "generation": generation}}))
        party.seen = len(self.history) - 1

    def deliver(self, party: Party) -> None:
        party.seen = min(party.seen + 1, len(self.history) - 1)

    def route(self, router: Party) -> None:
        """A router looks at what it has: only if a request waits."""
        view = self.history[router.seen]
        if not router.waiting:
            return
        if view.status.phase == Phase.READY:
            # A worker that is there and not draining takes the turn; else it is refused, and the request waits on.
            if self.worker and self.history[-1].status.phase == Phase.READY:
                router.waiting = False
        elif asks.must_ask(view):
            self.patch(router, asks.ask(self.clock))

    def operate(self, evict: bool) -> None:
        """The operator looks at what it has, and takes one step."""
        view = self.history[self.operator.seen]
        generation, status = view.metadata.generation, view.status
        if status.phase in (Phase.STARTING, Phase.READY):
            self.decided = max(self.decided, generation)
        if status.phase == Phase.STARTING:
            self.worker = True
            self._write(Phase.READY, generation)
        elif status.phase == Phase.READY:
            if evict or view.spec.desired_state == Desired.SUSPENDED:
                self._write(Phase.SUSPENDING, generation)
        elif status.phase == Phase.SUSPENDING:
            self.worker = False
            self._write(Phase.SUSPENDED, status.observed_generation)
        elif asks.asked(view, self.clock):
            self._write(Phase.STARTING, generation)
        elif not status.phase:
            self._write(Phase.SUSPENDED, generation)

    def _write(self, phase: Phase, generation: int) -> None:
        self.patch(self.operator, {"status": {"phase": str(phase), "observedGeneration": generation}})

    def wish(self, desired: Desired) -> None:
        """By hand, and once."""
        before = self.history[-1].metadata.generation
        self.patch(Party(), {"spec": {"desiredState": str(desired)}})
        after = self.history[-1].metadata.generation
        if after > before:
            self.asked_once = after if desired == Desired.RUNNING else 0

    def honoured(self) -> bool:
        """Whether an ask that came once has had its worker."""
        return self.decided >= self.asked_once or self.history[-1].status.phase == Phase.READY

    def settle(self, *, evict: bool = False) -> None:
        """Everyone sees everything, in turn, often enough for any single thing to be done."""
        for _ in range(12):
            for party in (self.operator, *self.routers):
                party.seen = len(self.history) - 1
                if party is self.operator:
                    self.operate(evict)
                else:
                    self.route(party)


def _raw(view: ClaudeSession) -> Json:
    return {
        "spec": {
            "conversationID": view.spec.conversation_id,
            "desiredState": view.spec.desired_state,
            "lastRequestTime": view.spec.last_request_time and view.spec.last_request_time.isoformat(),
        },
        "status": {"phase": view.status.phase, "observedGeneration": view.status.observed_generation},
    }


happenings = st.one_of(
    st.tuples(st.sampled_from(["request", "route", "see"]), st.sampled_from(["0", "1"])),
    st.tuples(st.sampled_from(["see", "operate", "evict"]), st.just("operator")),
    st.tuples(st.just("wish"), st.sampled_from(Desired)),
)


@settings(max_examples=400)
@given(st.lists(happenings, max_size=60))
def test_no_ask_is_lost_and_no_worker_comes_back_unasked(history: list[tuple[str, str]]) -> None:
    world = World()
    for what, which in history:
        match what:
            case "request":
                world.routers[int(which)].waiting = True
            case "route":
                world.route(world.routers[int(which)])
            case "see":
                world.deliver(world.operator if which == "operator" else world.routers[int(which)])
            case "wish":
                world.wish(Desired(which))
            case _:
                world.operate(evict=what == "evict")
    world.settle()
    assert not any(router.waiting for router in world.routers), "a request waits for ever"
    assert world.honoured(), "an ask was lost"

    world.settle(evict=True)
    assert world.history[-1].status.phase == Phase.SUSPENDED
    writes = len(world.history)
    world.settle(evict=True)
    assert len(world.history) == writes, "it came back though nobody asked"

    world.wish(Desired.SUSPENDED)
    world.wish(Desired.RUNNING)
    world.settle()
    assert world.history[-1].status.phase == Phase.READY
    world.wish(Desired.SUSPENDED)
    world.settle()
    assert world.history[-1].status.phase == Phase.SUSPENDED
    world.routers[0].waiting = True
    world.settle()
    assert world.history[-1].status.phase == Phase.READY
    assert not world.routers[0].waiting
