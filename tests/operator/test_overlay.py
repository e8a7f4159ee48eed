"""A pool's `podTemplate` that the definition lets pass, and that is no template of a pod all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_crds.resources import GIT_CONTAINER
from claude_operator import build
from claude_operator.overlay import BadTemplate, merge, of_template
from claude_operator.settings import OperatorSettings
from operator_sim.made import pool, session

SETTINGS = OperatorSettings(worker_image="img:1", worker_key_file="key")
GIT: dict[str, Any] = {"url": "https://git.example/a"}
SECRET = "hunter2"


def manifest(spec: dict[str, Any], **more: Any) -> Any:
    made = pool(podTemplate={"spec": spec}, **more)
    return build.pod(build.template(made, SETTINGS), made, "p", "c", "token", session())


def of_worker(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "worker", **fields}]}


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": None},
        {"volumes": None},
        {"initContainers": None},
        {"imagePullSecrets": None},
        of_worker(env=None),
        of_worker(ports=None),
        of_worker(volumeMounts=None),
    ],
)
def test_a_named_list_that_is_null_says_nothing(spec: dict[str, Any]) -> None:
    assert manifest(spec) == manifest({})
    assert manifest(spec, workspace={"git": GIT}) == manifest({}, workspace={"git": GIT})


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"containers": {"worker": {"env": SECRET}}}, "podTemplate.spec.containers is a map, and must be a list"),
        ({"containers": ["worker"]}, "podTemplate.spec.containers[0] is text, and must be a map"),
        ({"containers": [None]}, "podTemplate.spec.containers[0] is nothing, and must be a map"),
        ({"containers": [{"image": "x"}]}, "podTemplate.spec.containers[0] has no name"),
        ({"volumes": "x"}, "podTemplate.spec.volumes is text, and must be a list"),
        ({"volumes": [{"name": ["x"]}]}, "podTemplate.spec.volumes[0] has no name"),
        ({"initContainers": {"a": {}}}, "podTemplate.spec.initContainers is a map, and must be a list"),
        ({"initContainers": [5]}, "podTemplate.spec.initContainers[0] is a number, and must be a map"),
        (of_worker(env={"KEY": SECRET}), "podTemplate.spec.containers[worker].env is a map, and must be a list"),
        (
            of_worker(env=[{"name": "A", "value": "1"}, {"value": SECRET}]),
            "podTemplate.spec.containers[worker].env[1] has no name",
        ),
        (of_worker(env=[{"name": None}]), "podTemplate.spec.containers[worker].env[0] has no name"),
        (of_worker(env=[True]), "podTemplate.spec.containers[worker].env[0] is a boolean, and must be a map"),
        (
            of_worker(volumeMounts=[{"name": "x"}]),
            "podTemplate.spec.containers[worker].volumeMounts[0] has no mountPath",
        ),
        (of_worker(ports=[{"name": "x"}]), "podTemplate.spec.containers[worker].ports[0] has no containerPort"),
    ],
)
def test_what_cannot_be_laid_over_is_named_by_its_field_and_not_its_value(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(BadTemplate) as error:
        manifest(spec)
    assert str(error.value) == told


def test_what_the_template_says_of_the_clone_is_named_too() -> None:
    spec = {"initContainers": [{"name": GIT_CONTAINER, "env": {"A": SECRET}}]}
    manifest(spec)
    with pytest.raises(BadTemplate) as error:
        manifest(spec, workspace={"git": GIT})
    where = f"podTemplate.spec.initContainers[{GIT_CONTAINER}].env"
    assert str(error.value) == f"{where} is a map, and must be a list"


@pytest.mark.parametrize("error", [TypeError(SECRET), ValueError(SECRET), OverflowError(SECRET), StopIteration(SECRET)])
def test_whatever_else_goes_wrong_is_the_template_s_fault_and_repeats_no_value(error: Exception) -> None:
    @of_template()
    def fails() -> None:
        raise error

    with pytest.raises(BadTemplate) as found:
        fails()
    assert SECRET not in str(found.value)
    assert type(error).__name__ in str(found.value)


def test_a_number_as_a_variable_s_value_is_for_the_api_server_to_refuse() -> None:
    [worker] = manifest(of_worker(env=[{"name": "API_TIMEOUT_MS", "value": 60000}]))["spec"]["containers"]
    assert {"name": "API_TIMEOUT_MS", "value": 60000} in worker["env"]


def test_merge_changes_neither_side() -> None:
    base, over = (
        {"a": {"b": [1]}, "env": [{"name": "x", "value": "1"}]},
        {"a": {"c": 2}, "env": [{"name": "x", "value": "2"}], "volumes": None},
    )
    before = json.dumps([base, over])
    assert merge(base, over) == {"a": {"b": [1], "c": 2}, "env": [{"name": "x", "value": "2"}]}
    assert json.dumps([base, over]) == before
