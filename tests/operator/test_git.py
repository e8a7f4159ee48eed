"""What clones a workspace: which pods have it, what it may see, and what becomes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from claude_crds.events import Cause
from claude_crds.resources import CLONED_CONDITION, GIT_ANNOTATION, GIT_CONTAINER, TEMPLATE_LABEL
from claude_crds.views import ClaudePool, condition
from claude_operator import build, git, trouble
from claude_operator.phases import Facts, target
from claude_operator.settings import OperatorSettings
from claude_operator.slots import Word, cloning
from operator_sim.made import pod, pool, session, slot

SETTINGS = OperatorSettings(worker_image="img:1", worker_key_file="key")
GIT = {"url": "https://git.example.com/a/b.git", "ref": "main", "depth": 1, "secretRef": {"name": "creds"}}
OTHER = {"url": "https://git.example.com/other"}
WITH = pool(workspace={"git": GIT})


def manifest(made: ClaudePool = WITH, bound: Any = None, settings: OperatorSettings = SETTINGS) -> Any:
    return build.pod(build.template(made, settings), made, "p", "c", "token", bound)


def cloner(body: Any) -> Any:
    return next((c for c in body["spec"].get("initContainers", ()) if c["name"] == GIT_CONTAINER), None)


def env(container: Any) -> dict[str, str]:
    return {e["name"]: e["value"] for e in container["env"]}


def test_a_spare_clones_what_its_pool_says() -> None:
    found = cloner(manifest())
    given = env(found)
    assert given["WORKSPACE_GIT"] == "https://git.example.com/a/b.git#main"
    assert given["WORKSPACE_GIT_DEPTH"] == "1"
    assert found["image"] == "img:1"
    assert manifest()["metadata"]["annotations"] == {GIT_ANNOTATION: given["WORKSPACE_GIT"]}


def test_without_git_nothing_is_there() -> None:
    body = manifest(pool())
    assert "initContainers" not in body["spec"]
    assert body["metadata"]["annotations"] == {}


def test_only_the_container_that_clones_has_the_credential() -> None:
    body = manifest(bound=session())
    [volume] = [v for v in body["spec"]["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == "creds"
    assert [i["key"] for i in volume["secret"]["items"]] == ["username", "password", "ca.crt"]
    mounting = [
        c["name"]
        for kind in ("containers", "initContainers")
        for c in body["spec"][kind]
        if any(m["name"] == volume["name"] for m in c["volumeMounts"])
    ]
    assert mounting == [GIT_CONTAINER]
    assert "creds" not in json.dumps([body["metadata"], body["spec"]["containers"]])


def test_it_is_as_confined_as_the_worker_and_shares_no_folder_but_the_volume() -> None:
    body = manifest()
    worker, found = body["spec"]["containers"][0], cloner(body)
    for key in ("securityContext", "resources", "image", "imagePullPolicy"):
        assert found[key] == worker[key]
    shared = {m["name"] for m in worker["volumeMounts"]} & {m["name"] for m in found["volumeMounts"]}
    assert shared == {"session"}


def test_it_goes_through_the_proxy_that_the_worker_goes_through_and_gets_nothing_else_of_its_environment() -> None:
    given = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "PASSWORD", "value": "x"}]
    made = pool(workspace={"git": GIT}, podTemplate={"spec": {"containers": [{"name": "worker", "env": given}]}})
    found = env(cloner(manifest(made)))
    assert found["HTTPS_PROXY"] == "http://proxy:3128"
    assert not {"PASSWORD", "TOKEN_SHA256", "ANTHROPIC_BASE_URL"} & set(found)


def test_the_template_may_add_to_it() -> None:
    theirs = [{"name": "first", "image": "x"}, {"name": GIT_CONTAINER, "env": [{"name": "A", "value": "b"}]}]
    made = pool(workspace={"git": GIT}, podTemplate={"spec": {"initContainers": theirs}})
    body = manifest(made)
    assert [c["name"] for c in body["spec"]["initContainers"]] == [GIT_CONTAINER, "first"]
    assert env(cloner(body))["A"] == "b"
    assert env(cloner(body))["WORKSPACE_GIT"]
    resumed = manifest(made, session(status={"turns": 1}))
    assert [c["name"] for c in resumed["spec"]["initContainers"]] == ["first"]


@pytest.mark.parametrize(
    ("spec", "cloned"),
    [
        ({}, "https://git.example.com/a/b.git#main"),
        ({"workspace": {"git": OTHER}}, "https://git.example.com/other"),
        ({"workspace": {"empty": True}}, ""),
    ],
)
def test_a_sessions_own_word_comes_first(spec: Any, cloned: str) -> None:
    body = manifest(bound=session(**spec))
    found = cloner(body)
    assert (env(found)["WORKSPACE_GIT"] if found else "") == cloned
    assert body["metadata"]["annotations"].get(GIT_ANNOTATION, "") == cloned
    assert ("creds" in json.dumps(body)) == cloned.endswith("#main"), "the pool's credential is for the pool's git only"


CLONED = {"type": CLONED_CONDITION, "status": "True", "reason": "Cloned", "message": "m"}


@pytest.mark.parametrize(
    ("status", "again"),
    [
        ({}, True),
        ({"phase": "Failed", "volumeClaimName": "c"}, True),
        ({"conditions": [{**CLONED, "status": "False"}]}, True),
        ({"conditions": [CLONED]}, False),
        ({"turns": 1}, False),
        ({"claudeSessionID": "x"}, False),
    ],
)
def test_nothing_is_cloned_once_the_conversation_has_begun(status: Any, again: bool) -> None:
    body = manifest(bound=session(status=status))
    assert (cloner(body) is not None) == again
    assert ("creds" in json.dumps(body)) == again


def test_another_git_makes_other_spares_and_is_the_same_template_for_all_sessions() -> None:
    def label(body: Any) -> str:
        return str(body["metadata"]["labels"][TEMPLATE_LABEL])

    assert label(manifest()) != label(manifest(pool()))
    assert label(manifest()) != label(manifest(pool(workspace={"git": {**GIT, "depth": 2}})))
    assert label(manifest()) == label(manifest(pool(workspace={"git": GIT, "gitHosts": ["h"]})))
    own = session(workspace={"git": OTHER})
    assert label(manifest()) == label(manifest(bound=own)) == label(manifest(bound=session(status={"turns": 1})))


@pytest.mark.parametrize(
    ("of_pool", "of_session", "may"),
    [
        (None, {}, True),
        (GIT, {}, True),
        (GIT, {"git": GIT}, True),
        (GIT, {"git": OTHER}, False),
        (GIT, {"git": {**GIT, "ref": "v1"}}, False),
        (GIT, {"git": {**GIT, "secretRef": {"name": "x"}}}, False),
        (GIT, {"empty": True}, False),
        (None, {"empty": True}, True),
        (None, {"git": OTHER}, False),
    ],
)
def test_who_may_take_a_spare(of_pool: Any, of_session: Any, may: bool) -> None:
    made = pool(workspace={"git": of_pool})
    assert git.may_claim(made, session(workspace=of_session)) == may


# -- how it goes -------------------------------------------------------------------------------------------------------


def state(**of: Any) -> list[Any]:
    return [{"name": GIT_CONTAINER, "ready": False, "restartCount": 0, "state": of}]


def ended(code: int, message: str) -> list[Any]:
    return state(terminated={"exitCode": code, "reason": "Error", "message": message})


BACK_OFF = [{
    "name": GIT_CONTAINER, "ready": False, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1, "message": "no"}},
}]  # fmt: skip
RUNNING = state(running={"startedAt": "2030-01-31T12:00:00Z"})


def found(statuses: list[Any], now: float = 1.0) -> trouble.Trouble | None:
    return trouble.of_slot(slot(pod(phase="Pending", initContainerStatuses=statuses)), None, now, 120.0)


def test_while_it_runs_people_are_told_and_nothing_is_late() -> None:
    why = found(RUNNING, now=10_000.0)
    assert why is not None
    assert (why.cause, why.hopeless) == (Cause.CLONING, False)


@pytest.mark.parametrize("statuses", [ended(1, "no"), BACK_OFF])
def test_what_it_says_at_its_end_is_why(statuses: list[Any]) -> None:
    why = found(statuses)
    assert why == trouble.Trouble(Cause.CLONE, "no", True)


def test_before_and_after_it_a_pod_is_as_any_other() -> None:
    waiting = state(waiting={"reason": "PodInitializing"})
    assert found(waiting) is None
    assert found(ended(0, "Cloned.")) is None
    late = found(ended(0, "Cloned."), now=1000.0)
    assert late is not None
    assert late.cause is Cause.CRASHED
    image = found(state(waiting={"reason": "ImagePullBackOff", "message": "x"}))
    assert image is not None
    assert image.cause is Cause.IMAGE
    assert cloning(pod()) is None


def status(conditions: Any = (), **of: Any) -> Any:
    made = Facts(
        session=session(status={"conditions": list(conditions)}), slot=None, claim="c", waiting_since=None,
        position=None, pool_size=2, trouble=None, failed=False, restarts=0, unix=1_000_000.0,
    )  # fmt: skip
    return condition(target(replace(made, **of)).conditions, CLONED_CONDITION)


def test_the_condition_says_what_was_cloned_or_why_not() -> None:
    ready = slot(pod(podIP="10.0.0.7", initContainerStatuses=ended(0, "Cloned x at y.")), Word("bound"))
    told = status(slot=ready)
    assert (told.status, told.reason, told.message) == ("True", "Cloned", "Cloned x at y.")
    why = trouble.Trouble(Cause.CLONE, "The workspace could not be cloned: no", True)
    told = status(trouble=why, failed=True)
    assert (told.status, told.reason, told.message) == ("False", "WorkspaceNotCloned", why.message)
    assert status() is None
    assert status(slot=slot(pod(podIP="10.0.0.7"), Word("bound"))) is None
    assert status(trouble=trouble.Trouble(Cause.IMAGE, "no", True)) is None


def test_what_is_cloned_stays_so() -> None:
    assert status([CLONED]).message == "m"
    assert status([CLONED], trouble=trouble.Trouble(Cause.CLONE, "no", True), failed=True).status == "True"
    assert status([{**CLONED, "status": "False"}]).status == "False"
