"""Workers that cannot be started: Failed, with a reason that says what to do; and well again when the cause is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from claude_crds.resources import READY_CONDITION
from claude_crds.views import ClaudeSession, condition
from cluster.stack import Stack, installed, reasons
from local.harness import Json, chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ENVIRONMENT = [{"name": "START_TIMEOUT_MS", "value": "25000"}]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    given = f"--set-json=operator.extraEnv={json.dumps(ENVIRONMENT)}"
    with installed(given, pool__idleTimeout=0, pool__warm=0, pool__queueTimeout="60s") as running:
        yield running


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    yield
    stack.forget(*[s.spec.conversation_id for s in stack.watch.sessions.items()])


def refused(stack: Stack, conversation: str) -> Json:
    """The error that a request of this conversation gets."""
    with stack.client(conversation) as client:
        answer = chat(client, "::say hello")
    assert answer.status_code in (502, 503), answer.text
    error: Json = answer.json()["error"]
    return error


def failed(stack: Stack, conversation: str) -> tuple[ClaudeSession, str]:
    """The session once it has Failed, and its condition's reason."""
    session = stack.watch.until_phase(conversation, "Failed")
    found = condition(session.status.conditions, READY_CONDITION)
    assert found is not None
    assert found.status == "False"
    assert session.status.message == found.message
    assert "Failed" in reasons(stack, session.name, ["Failed"])
    return session, found.reason


def recovers(stack: Stack, conversation: str) -> None:
    """Nobody asks, and still it is no longer Failed; then it answers."""
    stack.watch.until_phase(conversation, "Suspended", "Ready")
    with stack.client(conversation) as client:
        assert content(chat(client, "::say well again")) == "well again"


def pool_is(stack: Stack, status: str) -> None:
    def so() -> bool:
        pool = stack.watch.pools.get("default")
        found = condition(pool.status.conditions, READY_CONDITION) if pool else None
        return found is not None and found.status == status

    stack.watch.until(f"the pool's condition is {status}", so)


def worker(**container: Any) -> Json:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


def test_the_image_is_missing(stack: Stack) -> None:
    stack.pool(image="localhost/no-such-image:1")
    error = refused(stack, "imageless")
    assert "localhost/no-such-image:1" in error["message"]
    _, reason = failed(stack, "imageless")
    assert reason == "ImageUnavailable"
    pool_is(stack, "False")
    stack.pool(image=None)
    pool_is(stack, "True")
    recovers(stack, "imageless")


def test_a_secret_is_missing(stack: Stack) -> None:
    source = {"secretKeyRef": {"name": "not-yet-there", "key": "TOKEN"}}
    stack.pool(podTemplate=worker(env=[{"name": "GITHUB_TOKEN", "valueFrom": source}]))
    assert "not-yet-there" in refused(stack, "secretless")["message"]
    _, reason = failed(stack, "secretless")
    assert reason == "SecretNotFound"
    stack.cluster.kubectl("create", "secret", "generic", "not-yet-there", "--from-literal=TOKEN=x")
    recovers(stack, "secretless")
    stack.pool(podTemplate=None)


def test_the_quota_is_used_up(stack: Stack) -> None:
    pods = len(stack.cluster.get("pods")["items"])
    stack.cluster.kubectl("create", "quota", "few", f"--hard=pods={pods}")
    stack.watch.until("the quota counts", lambda: stack.cluster.get("quota", "few").get("status", {}).get("used"))
    assert "quota" in refused(stack, "over-quota")["message"]
    _, reason = failed(stack, "over-quota")
    assert reason == "QuotaExceeded"
    stack.cluster.kubectl("delete", "quota", "few")
    recovers(stack, "over-quota")


def test_the_volume_is_refused(stack: Stack) -> None:
    stack.pool(workspace={"storageClassName": "no-such-class"})
    error = refused(stack, "volumeless")
    assert "PersistentVolumeClaim" in error["message"]
    _, reason = failed(stack, "volumeless")
    assert reason == "VolumeNotBound"
    stack.pool(workspace={"storageClassName": None})
    recovers(stack, "volumeless")


def test_the_volume_is_lost(stack: Stack) -> None:
    with stack.client("lost") as client:
        content(chat(client, "::say kept on a volume"))
    session = stack.watch.until_phase("lost", "Ready")
    stack.cluster.patch("claudesession", session.name, {"spec": {"desiredState": "Suspended"}})
    stack.watch.until_phase("lost", "Suspended")
    claim = session.status.volume_claim_name
    stack.cluster.kubectl("delete", "pvc", claim)
    assert claim in refused(stack, "lost")["message"]
    _, reason = failed(stack, "lost")
    assert reason == "VolumeLost"
    mine = [c for c in stack.watch.claims.items() if "lost" in c.name]
    assert mine == [], "a new volume is not a memory"


def test_a_pod_that_is_not_allowed(stack: Stack) -> None:
    """The namespace enforces the restricted standard; the pool asks for more."""
    stack.pool(podTemplate=worker(securityContext={"privileged": True, "allowPrivilegeEscalation": True}))
    assert "PodSecurity" in refused(stack, "privileged")["message"]
    _, reason = failed(stack, "privileged")
    assert reason == "PodRefused"
    stack.pool(podTemplate=None)
    recovers(stack, "privileged")


def test_the_key_is_refused(stack: Stack) -> None:
    """The next worker is given what the Secret says then; until it does, each failure says what to do."""
    with stack.client("keyless") as client:
        content(chat(client, "::say first"))
        pod = stack.watch.until_phase("keyless", "Ready").status.pod_name
        # Claude Code fetches its credential anew at the first two, and says so at the third only.
        answer = chat(client, "::status 401 3")
        assert answer.status_code == 401, answer.text
        _, reason = failed(stack, "keyless")
        assert reason == "KeyRefused"
        stack.watch.until("its worker is gone", lambda: stack.watch.pods.get(pod) is None)
        answer = chat(client, "::recall")
        while answer.status_code != 200:  # it was asked again within the pause after a failure
            assert "API key" in answer.json()["error"]["message"]
            answer = chat(client, "::recall")
        assert json.loads(content(answer))[0] == "::say first"


def test_the_pool_is_missing(stack: Stack) -> None:
    pool = stack.cluster.get("claudepool", "default")
    with stack.client("poolless") as client:
        content(chat(client, "::say first"))
    session = stack.watch.until_phase("poolless", "Ready")
    stack.cluster.kubectl("delete", "claudepool", "default")
    stack.watch.until("its worker goes with it", lambda: not stack.watch.pods.items())
    _, reason = failed(stack, "poolless")
    assert reason == "PoolNotFound"
    kept = {key: pool["metadata"][key] for key in ("name", "labels", "annotations")}
    body = {"apiVersion": pool["apiVersion"], "kind": pool["kind"], "metadata": kept, "spec": pool["spec"]}
    stack.cluster.kubectl("apply", "--filename=-", given=json.dumps(body))
    recovers(stack, "poolless")
    assert stack.watch.until_phase("poolless", "Ready").status.volume_claim_name == session.status.volume_claim_name
