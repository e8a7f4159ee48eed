"""What is remembered of a session: since when it waits, what failed, and for how long that counts."""

from __future__ import annotations

from typing import Any

import pytest

from claude_crds import asks
from claude_crds.events import Cause
from claude_crds.resources import timestamp
from claude_operator.notes import FORGET_SECONDS, LONGEST_DELAY_SECONDS, Note, attended, backoff
from claude_operator.trouble import Trouble
from operator_sim.made import session

TROUBLE = Trouble(Cause.IMAGE, "no image", True)
UNIX = 1_000_000.0


def looked(
    note: Note, now: float, *, generation: int = 2, spec: dict[str, Any] | None = None, **status: object
) -> None:
    note.look(
        session(generation=generation, status={"observedGeneration": 1, **status}, **(spec or {})), now, UNIX + now
    )


def test_an_open_ask_waits_from_when_it_was_first_seen() -> None:
    note = Note()
    looked(note, 10.0, phase="Suspended")
    looked(note, 12.0, phase="Suspended")
    assert note.waiting_since == 10.0


def test_a_wait_that_another_operator_has_written_goes_on() -> None:
    note = Note()
    looked(note, 100.0, phase="Queued", waitingSince=timestamp(UNIX + 100 - 25))
    assert note.waiting_since == pytest.approx(75.0)


def test_a_wait_from_the_future_began_now() -> None:
    note = Note()
    looked(note, 100.0, phase="Queued", waitingSince=timestamp(UNIX + 900))
    assert note.waiting_since == 100.0


def test_an_answered_ask_waits_no_more() -> None:
    note = Note()
    looked(note, 1.0, phase="Queued")
    looked(note, 2.0, phase="Ready", observedGeneration=2)
    assert note.waiting_since is None


def test_a_wait_that_nobody_renews_lapses_and_a_renewal_is_a_new_generation() -> None:
    note = Note()
    looked(note, 0.0, phase="Queued")
    assert note.lapses(0.0) == asks.LAPSE_SECONDS
    looked(note, 29.0, generation=3, phase="Queued")
    looked(note, 58.0, generation=3, phase="Queued")
    assert note.waiting_since == 0.0
    looked(note, 59.0, generation=3, phase="Queued")
    assert note.waiting_since is None
    assert note.lapses(59.0) is None


def test_a_lost_worker_is_replaced_without_an_ask_and_that_never_lapses() -> None:
    note = Note(revive=True)
    looked(note, 0.0, generation=1, phase="Starting")
    looked(note, 1000.0, generation=1, phase="Starting")
    assert note.waiting_since == 0.0
    assert note.lapses(1000.0) is None
    note.succeed()
    assert not note.revive


def test_a_session_that_is_to_be_suspended_or_leaves_is_not_revived() -> None:
    note = Note(revive=True)
    looked(note, 0.0, generation=1, phase="Suspending", spec={"desiredState": "Suspended"})
    assert note.waiting_since is None


def test_failures_back_off_longer_each_time_until_they_are_long_ago() -> None:
    note, now = Note(), 1000.0
    delays = []
    for _ in range(9):
        note.fail(TROUBLE, now)
        delays.append(note.not_before - now)
        now = note.not_before
    assert delays[:3] == [1.0, 2.0, 4.0]
    assert delays[-1] == LONGEST_DELAY_SECONDS
    note.fail(TROUBLE, now + FORGET_SECONDS + 1)
    assert note.failures == 1


def test_a_failure_ends_a_revival_and_a_success_everything() -> None:
    note = Note(revive=True, waiting_since=1.0)
    note.fail(TROUBLE, 5.0)
    assert (note.revive, note.trouble) == (False, TROUBLE)
    note.succeed()
    assert (note.trouble, note.waiting_since) == (None, None)


def test_it_backs_off_but_not_for_ever() -> None:
    assert backoff(10_000) == LONGEST_DELAY_SECONDS


def test_restarts_never_go_back() -> None:
    note = Note(restarts=1)
    looked(note, 0.0, phase="Ready", restarts=5)
    looked(note, 1.0, phase="Ready", restarts=0)
    assert note.restarts == 5


def test_decide_sees_the_back_off_and_the_wish_to_suspend() -> None:
    note = Note(waiting_since=3.0, not_before=9.0)
    seen = note.view(session("s", desiredState="Suspended"), fresh=True)
    assert (seen.name, seen.waiting_since, seen.fresh, seen.suspend_requested, seen.not_before) == (
        "s",
        3.0,
        True,
        True,
        9.0,
    )


@pytest.mark.parametrize(
    ("phase", "observed", "desired", "needs"),
    [
        ("Suspended", 1, "Running", False),
        ("Suspended", 0, "Running", True),
        ("Suspended", 0, "Suspended", False),
        ("", 0, "Suspended", True),
        *((phase, 1, "Running", True) for phase in ("Queued", "Starting", "Ready", "Suspending", "Failed")),
    ],
)
def test_only_the_suspended_that_nobody_asks_for_need_nothing(
    phase: str, observed: int, desired: str, needs: bool
) -> None:
    made = session(status={"phase": phase, "observedGeneration": observed}, desiredState=desired)
    assert attended(made) == needs
