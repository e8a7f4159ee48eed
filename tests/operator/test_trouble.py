"""Why a worker does not start: pods as kubelets and schedulers really write them."""

from __future__ import annotations

from typing import Any

import pytest

from claude_crds.errors import BadRequest, Forbidden, Invalid, NotFound, Status, Unavailable
from claude_crds.events import Cause
from claude_operator import trouble
from claude_operator.slots import Word
from operator_sim.kubelet import container
from operator_sim.made import claim, pod, slot

KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
SCHEDULED = {"type": "PodScheduled", "status": "True"}


def found(now: float = 1.0, *, proven: bool = False, volume: Any = None, **status: Any) -> trouble.Trouble | None:
    made = slot(pod(phase="Pending", **{"conditions": [SCHEDULED], **status}), proven=proven)
    return trouble.of_slot(made, volume or claim(), now, 120.0)


def waiting(reason: str, message: str = "", **more: Any) -> list[dict[str, Any]]:
    return [container(state={"waiting": {"reason": reason, "message": message}}, **more)]


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [("ErrImagePull", False), ("ImagePullBackOff", True), ("InvalidImageName", True), ("ErrImageNeverPull", True)],
)
def test_an_image_that_cannot_be_had(reason: str, hopeless: bool) -> None:
    message = 'Back-off pulling image "registry/worker:1": not found'
    why = found(containerStatuses=waiting(reason, message))
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.IMAGE, hopeless)
    assert message in why.message


def test_a_secret_that_is_missing() -> None:
    why = found(containerStatuses=waiting("CreateContainerConfigError", 'secret "anthropic" not found'))
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.SECRET_MISSING, True)


def test_a_container_that_cannot_be_made() -> None:
    why = found(containerStatuses=waiting("CreateContainerError", "container has runAsNonRoot"))
    assert why is not None
    assert why.cause == Cause.REFUSED


def test_an_init_container_counts_too() -> None:
    status = {**waiting("ImagePullBackOff")[0], "name": "init"}
    why = found(initContainerStatuses=[status], containerStatuses=waiting("PodInitializing"))
    assert why is not None
    assert "container init" in why.message


@pytest.mark.parametrize(
    ("restarts", "proven", "told"), [(2, False, False), (3, False, True), (5, True, False), (6, True, True)]
)
def test_a_container_that_keeps_ending(restarts: int, proven: bool, told: bool) -> None:
    last = {"terminated": {"exitCode": 1, "reason": "Error", "message": "boot\nno such model\n"}}
    why = found(
        proven=proven, containerStatuses=waiting("CrashLoopBackOff", "back-off 40s", restarts=restarts, last=last)
    )
    assert (why is not None) == told
    if why:
        assert (why.cause, why.hopeless) == (Cause.CRASHED, True)
        assert why.message == "Container worker keeps ending: Error, status 1: no such model"


def test_creating_and_initializing_are_no_trouble() -> None:
    assert found(containerStatuses=waiting("ContainerCreating")) is None
    assert found(containerStatuses=waiting("PodInitializing")) is None
    assert found() is None


def unscheduled(message: str) -> list[dict[str, Any]]:
    return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]


@pytest.mark.parametrize(("now", "hopeless"), [(1.0, False), (121.0, True)])
def test_no_node_takes_it(now: float, hopeless: bool) -> None:
    why = found(now, conditions=unscheduled("0/3 nodes are available: 3 Insufficient memory."))
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.UNSCHEDULABLE, hopeless)
    assert "Insufficient memory" in why.message


def test_its_claim_gets_no_volume() -> None:
    conditions = unscheduled("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
    why = found(volume=claim("vol", "Pending"), conditions=conditions)
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.VOLUME_PENDING, False)
    assert "kubectl describe pvc vol" in why.message


def test_its_volume_is_lost() -> None:
    why = found(volume=claim("vol", "Lost"))
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.VOLUME_LOST, True)


def test_it_is_late_only_before_it_was_ready_once() -> None:
    running = [container(ready=True)]
    assert found(120.0, containerStatuses=running) is None
    why = found(121.0, containerStatuses=running)
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.CRASHED, True)
    assert found(10_000.0, proven=True, containerStatuses=running) is None


def test_a_worker_says_that_it_failed() -> None:
    why = trouble.of_slot(slot(pod(), Word("failed", error="disk full")), claim(), 1.0, 120.0)
    assert why is not None
    assert (why.cause, why.message, why.hopeless) == (Cause.CRASHED, "The worker failed: disk full.", True)


def test_one_that_is_ready_or_leaves_has_none() -> None:
    status: dict[str, Any] = {"containerStatuses": waiting("ImagePullBackOff")}
    assert trouble.of_slot(slot(pod(**status), Word("bound")), claim(), 1.0, 120.0) is None
    assert trouble.of_slot(slot(pod(leaving=True, **status)), claim(), 1.0, 120.0) is None
    assert trouble.of_slot(slot(None), claim(), 1.0, 120.0) is None


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Forbidden(Status('pods "p" is forbidden: exceeded quota: q', "Forbidden", 403), "POST"), Cause.QUOTA),
        (Forbidden(Status("violates PodSecurity", "Forbidden", 403), "POST"), Cause.REFUSED),
        (Invalid(Status("spec.containers[0].env[1]: Invalid value", "Invalid", 422), "POST"), Cause.REFUSED),
        (BadRequest(Status("Pod in version v1 cannot be handled", "BadRequest", 400), "POST"), Cause.REFUSED),
        (NotFound(Status("claudepools.claude-code-api.io not found", "NotFound", 404), "GET"), Cause.POOL_MISSING),
        (NotFound(Status("namespaces not found", "NotFound", 404), "GET"), Cause.REFUSED),
        (Unavailable(Status("overloaded", "", 503), "POST"), Cause.API),
    ],
)
def test_what_the_api_server_refuses(error: Any, cause: Cause) -> None:
    why = trouble.of_error(error)
    assert why.cause == cause
    assert error.status.message in why.message


@pytest.mark.parametrize(
    ("status", "how"),
    [
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted: low on memory"),
        ({"phase": "Failed", "reason": "NodeLost"}, "NodeLost"),
        (
            {"containerStatuses": [container(last={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})]},
            "OOMKilled",
        ),
        ({"containerStatuses": [container(state={"terminated": {"exitCode": 3}})]}, "status 3"),
        ({"containerStatuses": [container()]}, ""),
        ({}, ""),
    ],
)
def test_how_it_ended(status: dict[str, Any], how: str) -> None:
    assert trouble.how_it_ended(pod(**status)) == how
