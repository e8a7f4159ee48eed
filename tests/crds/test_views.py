"""The views read what a real API server sends, and only a part of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from claude_crds.events import Step, event
from claude_crds.resources import (
    CLAIMS,
    PODS,
    POOLS,
    SECRETS,
    SESSIONS,
    TEAMS,
    Phase,
    Resource,
    duration,
    labels,
    timestamp,
)
from claude_crds.views import ClaudeSession, Metadata, Object, SessionSpec, condition

MANAGED = [{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:metadata": {}}}]

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "conv-a-x7k2p",
        "generateName": "conv-a-",
        "namespace": "ns",
        "uid": "0f5c",
        "resourceVersion": "4711",
        "generation": 1,
        "creationTimestamp": "2026-11-24T11:06:44Z",
        "deletionTimestamp": "2026-11-24T11:07:44Z",
        "deletionGracePeriodSeconds": 30,
        "labels": {"claude-code-api.io/pool": "default"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "ownerReferences": [
            {
                "apiVersion": "claude-code-api.io/v1alpha1",
                "kind": "ClaudeSession",
                "name": "conv-a",
                "uid": "1e2d",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
        "managedFields": MANAGED,
    },
    "spec": {
        "nodeName": "node1",
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "d", "persistentVolumeClaim": {"claimName": "v1"}}],
        "containers": [{"name": "worker", "image": "worker:1", "resources": {}}],
    },
    "status": {
        "phase": "Pending",
        "podIP": "198.18.0.7",
        "podIPs": [{"ip": "198.18.0.7"}],
        "conditions": [
            {"type": "Ready", "status": "False", "lastProbeTime": None, "lastTransitionTime": "2026-11-24T11:06:44Z"},
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available",
                "lastTransitionTime": "2026-11-24T11:06:44Z",
            },
        ],
        "containerStatuses": [
            {
                "name": "worker",
                "ready": False,
                "started": False,
                "restartCount": 2,
                "image": "worker:1",
                "imageID": "",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
                "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "containerID": "c"}},
            }
        ],
    },
}


def read(resource: Resource[Any], body: dict[str, Any]) -> Any:
    return resource.decoder.decode(json.dumps(body))


def test_a_pod_with_its_troubles() -> None:
    pod = read(PODS, POD)
    assert (pod.name, pod.metadata.uid, pod.metadata.resource_version) == ("conv-a-x7k2p", "0f5c", "4711")
    assert pod.leaving
    (owner,) = pod.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid, owner.controller) == ("ClaudeSession", "conv-a", "1e2d", True)
    assert pod.status.pod_ip == "198.18.0.7"
    (container,) = pod.status.container_statuses
    assert container.state.waiting.reason == "ImagePullBackOff"
    assert (container.last_state.terminated.reason, container.last_state.terminated.exit_code) == ("OOMKilled", 137)
    assert container.restart_count == 2
    scheduled = condition(pod.status.conditions, "PodScheduled")
    assert scheduled
    assert (scheduled.reason, scheduled.message) == ("Unschedulable", "0/1 nodes are available")
    assert condition(pod.status.conditions, "Other") is None
    assert [v.persistent_volume_claim and v.persistent_volume_claim.claim_name for v in pod.spec.volumes] == [
        None,
        "v1",
    ]


def test_a_pod_that_was_only_just_made() -> None:
    pod = read(PODS, {"metadata": {"name": "p", "creationTimestamp": None}, "spec": {}, "status": {}})
    assert not pod.leaving
    assert pod.status.container_statuses == ()
    assert pod.metadata.labels == {}


def test_a_session_in_full() -> None:
    body = {
        "metadata": {"name": "conv-a", "generation": 4, "managedFields": MANAGED},
        "spec": {
            "conversationID": "a/b",
            "tenant": "t",
            "poolRef": {"name": "p"},
            "desiredState": "Suspended",
            "lastRequestTime": "2026-11-24T11:06:44.123456Z",
            "workspaceClaimName": "mine",
        },
        "status": {
            "phase": "Ready",
            "observedGeneration": 3,
            "endpoint": "http://198.18.0.7:8080",
            "claudeSessionID": "2f1e3b52",
            "lastActiveTime": "2026-11-24T11:06:44Z",
            "turns": 3,
            "usage": {"inputTokens": 10, "outputTokens": 2, "cachedTokens": 4, "costUSD": 1},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Up", "message": ""}],
            "somethingNew": {"a": 1},
        },
    }
    session = read(SESSIONS, body)
    assert (session.spec.conversation_id, session.spec.tenant, session.pool) == ("a/b", "t", "p")
    assert session.spec.last_request_time == datetime(2026, 11, 24, 11, 6, 44, 123456, UTC)
    assert session.status.phase == Phase.READY
    assert session.status.usage.cost_usd == 1.0
    assert session.status.claude_session_id == "2f1e3b52"


def test_a_phase_or_state_of_a_newer_version_is_no_error() -> None:
    body = {"metadata": {"name": "s"}, "spec": {"conversationID": "c", "desiredState": "Paused"}}
    session = read(SESSIONS, {**body, "status": {"phase": "Restarting"}})
    assert session.status.phase not in set(Phase)
    assert session.spec.desired_state == "Paused"


def test_a_pool_as_its_defaults_make_it_and_with_a_template() -> None:
    pool = read(POOLS, {"metadata": {"name": "default"}, "spec": {}})
    assert (pool.spec.size, pool.spec.warm, pool.spec.anthropic.secret_ref) == (5, 1, None)
    template = {"spec": {"nodeSelector": {"a": "b"}}}
    spec = {"podTemplate": template, "anthropic": {"secretRef": {"name": "key"}, "baseURL": "http://m"}}
    pool = read(POOLS, {"metadata": {"name": "default"}, "spec": spec})
    assert pool.spec.pod_template == template
    assert (pool.spec.anthropic.secret_ref.key, pool.spec.anthropic.base_url) == ("ANTHROPIC_API_KEY", "http://m")


def test_a_team_as_its_defaults_make_it_and_in_full() -> None:
    team = read(TEAMS, {"metadata": {"name": "t"}, "spec": {}})
    assert (team.pool, team.spec.models, team.spec.admin, team.spec.budget) == ("default", (), False, None)
    limits = (team.spec.max_sessions, team.spec.max_live, team.spec.max_concurrent_turns, team.spec.requests_per_minute)
    assert limits == (None,) * 4
    spec = {
        "poolRef": {"name": "p"},
        "models": ["claude-code"],
        "maxSessions": 9,
        "maxLive": 2,
        "maxConcurrentTurns": 3,
        "requestsPerMinute": 60,
        "budget": {"usd": 50},
        "anthropic": {"secretRef": {"name": "own"}, "baseURL": "https://gateway.example.com"},
        "admin": True,
    }
    status = {
        "observedGeneration": 2,
        "sessions": 4,
        "usage": {"costUSD": 1.5},
        "periodStart": "2026-11-01T00:00:00Z",
        "conditions": [{"type": "BudgetNear", "status": "True"}],
    }
    team = read(TEAMS, {"metadata": {"name": "t"}, "spec": spec, "status": status})
    assert (team.pool, team.spec.models, team.spec.max_live, team.spec.admin) == ("p", ("claude-code",), 2, True)
    assert (team.spec.budget.usd, team.spec.budget.period, team.spec.budget.warn_percent) == (50.0, "month", 80)
    assert (team.spec.anthropic.secret_ref.name, team.spec.anthropic.base_url) == ("own", "https://gateway.example.com")
    assert (team.status.sessions, team.status.live, team.status.usage.cost_usd) == (4, 0, 1.5)
    assert team.status.period_start == datetime(2026, 11, 1, tzinfo=UTC)


def test_whatever_shows_a_secret_shows_nothing_of_it() -> None:
    secret = read(SECRETS, {"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "c2VjcmV0"}})
    assert secret.data == {"a": b"secret"}
    assert repr(secret) == "Secret(name='s')"
    assert read(SECRETS, {"metadata": {"name": "s"}}).data == {}


def test_a_claim() -> None:
    claim = read(CLAIMS, {"metadata": {"name": "v"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Lost"}})
    assert claim.status.phase == "Lost"


def test_paths() -> None:
    assert PODS.path("ns") == "/api/v1/namespaces/ns/pods"
    expected = "/apis/claude-code-api.io/v1alpha1/namespaces/ns/claudesessions/a/status"
    assert SESSIONS.path("ns", "a", "status") == expected
    assert PODS.path("") == "/api/v1/pods"


def test_labels_tell_a_spare_from_a_sessions_worker() -> None:
    assert labels("p")["claude-code-api.io/pool"] == "p"
    assert "claude-code-api.io/session" not in labels("p")
    session = ClaudeSession(metadata=Metadata(name="s", uid="u"), spec=SessionSpec(conversation_id="c"))
    assert labels("p", session)["claude-code-api.io/session"] == "s"
    assert labels("p", session)["claude-code-api.io/session-uid"] == "u"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("90s", 90.0), ("5m", 300.0), ("24h", 86400.0), ("1h30m", 5400.0), ("500ms", 0.5), ("1m1ms", 60.001)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "1d", "5M", "-5m", "1.5h", "5m ", "5m1h", "1234567s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s, 5m or 1h30m"):
        duration(text)


def test_times_are_written_as_the_server_does() -> None:
    assert timestamp(1e9 + 0.25) == "2001-09-09T01:46:40.250000Z"


def test_an_event_is_about_one_object_and_has_a_name_of_its_own() -> None:
    about = Object(metadata=Metadata(name="conv-a", namespace="ns", uid="u", resource_version="7"))
    body = event(SESSIONS, about, Step.FAILED, "no such image", now=1e9, warning=True)
    assert body["metadata"] == {"generateName": "conv-a.", "namespace": "ns"}
    assert body["involvedObject"]["uid"] == "u"
    assert body["involvedObject"]["kind"] == "ClaudeSession"
    assert (body["type"], body["reason"], body["message"]) == ("Warning", "Failed", "no such image")
    assert body["lastTimestamp"] == "2001-09-09T01:46:40.000000Z"
    assert event(SESSIONS, about, Step.READY, "", now=1e9)["type"] == "Normal"
