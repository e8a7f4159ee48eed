"""What is known of a worker, from its pod and its own word."""

from __future__ import annotations

import time

import pytest

from claude_crds.resources import TEMPLATE_LABEL
from claude_operator.decide import WorkerState
from claude_operator.slots import HOLD_SECONDS, Word, bound_to, claim_of, worker_container
from operator_sim.kubelet import container
from operator_sim.made import pod, session, slot

READY, STARTING = WorkerState.READY, WorkerState.STARTING
DRAINING, TERMINATING = WorkerState.DRAINING, WorkerState.TERMINATING


def test_how_far_it_is() -> None:
    assert slot(None).state is STARTING
    assert slot(pod()).state is STARTING
    for phase in ("warm", "bound"):
        assert slot(pod(), Word(phase)).state is READY
    for phase in ("draining", "drained", "failed", "of a newer worker"):
        assert slot(pod(), Word(phase)).state is STARTING
    assert slot(pod(), Word("bound"), draining="idle").state is DRAINING
    assert slot(pod(), Word("bound"), deleting=True).state is TERMINATING
    assert slot(pod(leaving=True), Word("bound"), draining="idle").state is TERMINATING
    for phase in ("Failed", "Succeeded"):
        assert slot(pod(phase=phase), Word("bound")).state is TERMINATING


def test_where_it_listens() -> None:
    assert slot(None).endpoint == ""
    assert slot(pod()).endpoint == ""
    assert slot(pod(podIP="10.0.0.7")).endpoint == "http://10.0.0.7:8080"
    assert slot(pod(podIP="fd00::7")).endpoint == "http://[fd00::7]:8080"


def test_it_is_busy_by_its_own_word_or_while_a_request_is_on_its_way() -> None:
    made = slot(pod(), Word("bound"))
    assert not made.busy(5.0)
    made.publish(5.0)
    assert made.busy(5.0 + HOLD_SECONDS - 0.1)
    assert not made.busy(5.0 + HOLD_SECONDS)
    made.hear(Word("bound", busy=True), 100.0)
    assert made.busy(100.0)


def test_the_hold_ends_with_the_first_sign_of_the_turn_it_was_for() -> None:
    made = slot(pod(), Word("bound", turns=3))
    made.publish(0.0)
    made.hear(Word("bound", turns=3), 0.1)
    assert made.busy(0.1)
    made.hear(Word("bound", turns=4), 0.2)
    assert not made.busy(0.2)


def test_the_hold_ends_when_it_says_busy_and_then_idle() -> None:
    made = slot(pod(), Word("bound"))
    made.publish(0.0)
    made.hear(Word("bound", busy=True), 0.1)
    made.hear(Word("bound"), 0.2)
    assert not made.busy(0.2)


def test_its_clock_is_not_ours() -> None:
    made = slot(pod(), last_active=50.0)
    made.hear(Word("bound", last_active=time.time() - 10), 100.0)
    assert made.last_active == pytest.approx(90.0, abs=1.0)
    made.hear(Word("bound", last_active=time.time() + 3600), 100.0)
    assert made.last_active == 100.0
    made.hear(Word("bound", last_active=1.0), 100.0)
    assert made.last_active == 100.0


def test_it_is_stale_by_its_template_or_its_key() -> None:
    made = pod()
    made.metadata.labels[TEMPLATE_LABEL] = "t1"
    assert not slot(made).view(0.0, "t1").stale
    assert slot(made).view(0.0, "t2").stale
    assert slot(made, outdated=True).view(0.0, "t1").stale
    assert not slot(None).view(0.0, "t1").stale


def test_for_a_template_of_which_no_pod_can_be_made_nobody_is_stale() -> None:
    made = pod()
    made.metadata.labels[TEMPLATE_LABEL] = "t1"
    assert not slot(made).view(0.0, "").stale
    assert slot(made, outdated=True).view(0.0, "").stale


def test_whose_it_is() -> None:
    bound = pod(bound=session("s", uid="u1"), claim="vol")
    assert (bound_to(bound), claim_of(bound), slot(bound).session_uid) == ("s", "vol", "u1")
    assert (bound_to(pod()), slot(pod()).session_uid, slot(None).session_uid) == (None, "", "")


def test_its_container_is_the_one_of_that_name() -> None:
    sidecar = {**container(), "name": "proxy"}
    found = worker_container(pod(containerStatuses=[sidecar, container(restarts=2)]))
    assert found is not None
    assert found.restart_count == 2
    assert worker_container(pod(containerStatuses=[sidecar])) is None
