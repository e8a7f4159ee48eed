"""A session's status: every phase, what it answers, and that it never goes back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.events import Cause
from claude_crds.views import SessionStatus
from claude_operator import phases
from claude_operator.phases import Facts, target
from claude_operator.slots import Word, WordUsage
from claude_operator.trouble import Trouble
from crds.fake_api import merge
from operator_sim.made import pod, session, slot

UNIX = 1_000_000.5
TROUBLE = Trouble(Cause.IMAGE, "no image", True)
LIVE = pod(podIP="10.0.0.7")


def facts(status: Any = None, *, generation: int = 5, **values: Any) -> Facts:
    given: dict[str, Any] = {
        "session": session(generation=generation, status=status), "slot": None, "claim": "c", "waiting_since": None,
        "position": None, "pool_size": 2, "trouble": None, "failed": False, "restarts": 0, "unix": UNIX,
    }  # fmt: skip
    return Facts(**{**given, **values})


READY = slot(LIVE, Word("bound"))
STARTING = slot(LIVE)
ENDING = slot(LIVE, Word("bound"), draining="idle")


@pytest.mark.parametrize(
    ("values", "phase", "reason", "message"),
    [
        ({}, "Suspended", "Suspended", ""),
        ({"slot": READY}, "Ready", "WorkerReady", ""),
        ({"slot": READY, "trouble": TROUBLE}, "Ready", "WorkerReady", ""),
        ({"slot": STARTING, "waiting_since": 1.0}, "Starting", "WorkerStarting", ""),
        ({"slot": STARTING, "trouble": TROUBLE}, "Starting", "ImageUnavailable", "no image"),
        ({"slot": ENDING}, "Suspending", "WorkerEnding", ""),
        ({"slot": ENDING, "waiting_since": 1.0}, "Suspending", "WorkerEnding", "another starts as soon as it is gone"),
        ({"slot": ENDING, "trouble": TROUBLE, "failed": True}, "Failed", "ImageUnavailable", "no image"),
        ({"trouble": TROUBLE, "failed": True}, "Failed", "ImageUnavailable", "no image"),
        ({"trouble": TROUBLE, "waiting_since": 1.0}, "Queued", "WaitingForRoom", "about to get a worker"),
        ({"waiting_since": 1.0, "position": 3}, "Queued", "WaitingForRoom", "Number 3 in the line: all 2 workers"),
        ({"waiting_since": 1.0, "position": 1, "pool_size": 0}, "Queued", "WaitingForRoom", "size is 0"),
    ],
)
def test_the_phase_and_why(values: dict[str, Any], phase: str, reason: str, message: str) -> None:
    status = target(facts(**values))
    [condition] = status.conditions
    assert (status.phase, condition.reason) == (phase, reason)
    assert message in status.message
    assert (condition.type, condition.status) == ("Ready", "True" if phase == "Ready" else "False")


def test_who_waits_for_the_own_teams_limit_is_told_so() -> None:
    waits = session(generation=5, team="small")
    status = target(facts(session=waits, waiting_since=1.0, position=2, team_limit=4))
    assert status.message == "Number 2 in the line of team small: all 4 workers of its share are in use."


def test_only_a_ready_session_has_an_address() -> None:
    assert target(facts(slot=READY)).endpoint == "http://10.0.0.7:8080"
    for values in ({"slot": STARTING}, {"slot": ENDING}, {}, {"slot": READY, "trouble": TROUBLE, "failed": True}):
        status = target(facts(**values))
        assert bool(status.endpoint) == (status.phase == "Ready")
    assert target(facts(slot=ENDING)).pod_name == "p"
    assert target(facts(slot=ENDING, trouble=TROUBLE, failed=True)).pod_name == ""
    assert target(facts()).pod_name == ""


def test_a_status_answers_the_generation_that_it_was_decided_on() -> None:
    for values in ({}, {"slot": READY}, {"slot": STARTING}, {"trouble": TROUBLE, "failed": True}):
        assert target(facts({"phase": "Queued", "observedGeneration": 3}, **values)).observed_generation == 5
    assert target(facts({"phase": "Ready", "observedGeneration": 3}, slot=ENDING)).observed_generation == 5


def test_what_is_asked_while_the_worker_ends_is_still_open_when_it_has() -> None:
    before = {"phase": "Suspending", "observedGeneration": 3}
    assert target(facts(before, slot=ENDING, waiting_since=1.0)).observed_generation == 3
    assert target(facts(before)).observed_generation == 3
    # Taken up, answered, or refused to drain: then it is not.
    assert target(facts(before, waiting_since=1.0)).observed_generation == 5
    assert target(facts(before, slot=READY)).observed_generation == 5
    assert target(facts({"phase": "Suspended", "observedGeneration": 3})).observed_generation == 5


def test_counters_come_from_the_workers_word_and_never_go_back() -> None:
    word = Word("bound", turns=4, usage=WordUsage(10, 20, 3, 0.12345678), claude_session_id="s", last_active=9.0)
    told = target(facts({"turns": 3}, slot=replace(READY, word=word)))
    assert (told.turns, told.usage.input_tokens, told.usage.output_tokens, told.usage.cached_tokens) == (4, 10, 20, 3)
    assert told.usage.cost_usd == 0.123457
    assert told.claude_session_id == "s"
    assert told.last_active_time is not None
    assert told.last_active_time.timestamp() == 9.0
    known = {"turns": 9, "usage": {"inputTokens": 99}, "claudeSessionID": "old", "restarts": 4}
    kept = target(facts(known, slot=replace(READY, word=word)))
    assert (kept.turns, kept.usage.input_tokens, kept.claude_session_id, kept.restarts) == (9, 99, "old", 4)
    assert target(facts(known, restarts=6)).restarts == 6
    assert target(facts(known)).turns == 9


def test_a_claim_once_known_is_kept() -> None:
    assert target(facts({"volumeClaimName": "mine"}, claim="")).volume_claim_name == "mine"


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    old = {"type": "Ready", "status": "False", "reason": "x", "lastTransitionTime": "2020-01-31T12:00:00Z"}
    [same] = target(facts({"conditions": [old]})).conditions
    assert same.last_transition_time is not None
    assert same.last_transition_time.year == 2020
    [other] = target(facts({"conditions": [old]}, slot=READY)).conditions
    assert other.last_transition_time is not None
    assert other.last_transition_time.timestamp() == UNIX


def read(status: SessionStatus, onto: Any = None) -> SessionStatus:
    """What comes back from the server after the patch."""
    body = merge({"status": onto or {}}, phases.patch(status))["status"]
    return msgspec.json.decode(json.dumps(body), type=SessionStatus)


WORDS = st.builds(
    Word,
    phase=st.sampled_from(["warm", "bound", "drained"]),
    turns=st.integers(0, 9),
    usage=st.builds(WordUsage, st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.floats(0, 9)),
    last_active=st.floats(0, 1e9),
    claude_session_id=st.none() | st.just("s"),
)


@given(WORDS, st.sampled_from(["", "idle"]), st.booleans(), st.none() | st.floats(0, 1e9), st.integers(0, 3))
def test_a_patch_comes_back_as_what_was_meant(
    word: Word, draining: str, there: bool, since: float | None, n: int
) -> None:
    made = slot(LIVE, word, draining=draining) if there else None
    old = {"turns": 2, "endpoint": "http://old", "podName": "old", "message": "old",
           "waitingSince": "2020-01-31T12:00:00Z", "phase": "Suspending", "observedGeneration": 3}  # fmt: skip
    meant = target(facts(old, slot=made, waiting_since=since, trouble=TROUBLE if n else None, failed=n > 1))
    again = read(meant, old)
    assert again == meant
    assert phases.patch(again) == phases.patch(meant)


def test_counters_and_times_can_wait_and_nothing_else_can() -> None:
    old = target(facts(slot=READY))
    word = Word("bound", turns=3, usage=WordUsage(1), claude_session_id="s", last_active=5.0)
    later = target(replace(facts(slot=replace(READY, word=word)), unix=UNIX + 9))
    assert later != old
    assert not phases.urgent(old, later)
    for values in ({"slot": ENDING}, {}, {"slot": READY, "claim": "other"}, {"slot": READY, "restarts": 1}):
        assert phases.urgent(old, target(facts(**values)))
    assert phases.urgent(target(facts(waiting_since=1.0, position=2)), target(facts(waiting_since=1.0, position=1)))
    assert not phases.urgent(target(facts(waiting_since=1.0)), target(facts(waiting_since=1.5)))
