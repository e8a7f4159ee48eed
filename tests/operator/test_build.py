"""What worker pods and their claims look like."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from claude_crds.resources import POOL_LABEL, SESSION_LABEL, SESSION_UID_LABEL, TEMPLATE_LABEL
from claude_crds.settings import SettingsError
from claude_crds.tokens import token_hash
from claude_crds.views import ClaudePool
from claude_operator import build, gateway
from claude_operator.settings import OperatorSettings, load_settings
from claude_router.gateway.verify import AUDIENCE
from operator_sim.made import pool, session

SETTINGS = OperatorSettings(worker_image="img:1", worker_key_file="key")
WITH_GATEWAY = replace(SETTINGS, gateway_url="http://gateway:8090")
TOKEN = "the-token-of-this-worker"


def manifest(made: ClaudePool | None = None, bound: Any = None, settings: OperatorSettings = SETTINGS) -> Any:
    made = made or pool()
    return build.pod(build.template(made, settings), made, "p", "c", TOKEN, bound)


def worker(body: Any) -> Any:
    return next(c for c in body["spec"]["containers"] if c["name"] == "worker")


def env(body: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in worker(body)["env"]}


def laid_over(**template: Any) -> Any:
    return manifest(pool(podTemplate=template))


def test_a_worker_is_as_the_restricted_standard_asks() -> None:
    spec = manifest()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    container = spec["containers"][0]["securityContext"]
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"emptyDir", "persistentVolumeClaim"}
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))


def test_a_manifest_has_the_tokens_hash_and_never_the_token() -> None:
    body = manifest(bound=session())
    assert env(body)["TOKEN_SHA256"] == token_hash(TOKEN)
    assert TOKEN not in json.dumps(body)


def test_a_template_cannot_choose_the_tokens_hash_or_the_volume() -> None:
    container = {"name": "worker", "env": [{"name": "TOKEN_SHA256", "value": "mine"}]}
    volumes = [{"name": "session", "emptyDir": {}}]
    body = laid_over(spec={"containers": [container], "volumes": volumes})
    assert [e["value"] for e in worker(body)["env"] if e["name"] == "TOKEN_SHA256"] == [token_hash(TOKEN)]
    mounted = [v for v in body["spec"]["volumes"] if v["name"] == "session"]
    assert mounted == [{"name": "session", "persistentVolumeClaim": {"claimName": "c"}}]


def test_labels_say_whose_it_is_and_ours_win() -> None:
    bound = session("s")
    labels = {SESSION_LABEL: "other", POOL_LABEL: "other", "team": "x"}
    body = manifest(pool(podTemplate={"metadata": {"labels": labels, "annotations": {"note": "y"}}}), bound)
    found = body["metadata"]["labels"]
    assert (found[SESSION_LABEL], found[SESSION_UID_LABEL], found[POOL_LABEL]) == ("s", "uid-a", "default")
    assert found["team"] == "x"
    assert body["metadata"]["annotations"]["note"] == "y"
    assert body["metadata"]["annotations"]["claude-code-api.io/conversation"] == "conversation s"
    assert SESSION_LABEL not in manifest()["metadata"]["labels"]


def test_a_pod_is_its_pools_and_a_claim_its_sessions() -> None:
    [owner] = manifest(bound=session())["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("ClaudePool", "uid-default", True)
    [owner] = build.claim(pool(), "c", session())["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("ClaudeSession", "uid-a")
    [owner] = build.claim(pool(), "c", None)["metadata"]["ownerReferences"]
    assert owner["kind"] == "ClaudePool"


def test_a_claim_is_as_the_pool_wants_workspaces() -> None:
    made = pool(workspace={"storageClassName": "fast", "size": "3Gi", "accessModes": ["ReadWriteOncePod"]})
    assert build.claim(made, "c", None)["spec"] == {
        "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "3Gi"}}, "storageClassName": "fast",
    }  # fmt: skip
    assert "storageClassName" not in build.claim(pool(), "c", None)["spec"]


def test_env_of_a_template_is_laid_over_by_name_as_a_whole() -> None:
    source = {"secretKeyRef": {"name": "s", "key": "url"}}
    extra = [{"name": "ANTHROPIC_BASE_URL", "valueFrom": source}, {"name": "HTTPS_PROXY", "value": "p"}]
    made = pool(
        anthropic={"baseURL": "u", "secretRef": {"name": "key"}},
        podTemplate={"spec": {"containers": [{"name": "worker", "env": extra}]}},
    )
    entries = {e["name"]: e for e in worker(manifest(made))["env"]}
    assert entries["ANTHROPIC_BASE_URL"] == {"name": "ANTHROPIC_BASE_URL", "valueFrom": source}
    assert entries["HTTPS_PROXY"]["value"] == "p"
    assert entries["PORT"]["value"] == "8080"
    assert entries["ANTHROPIC_API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "key", "key": "ANTHROPIC_API_KEY"}


def test_a_volume_of_a_template_replaces_ours_of_its_name() -> None:
    volume = {"name": "tmp", "emptyDir": {"medium": "Memory"}}
    body = laid_over(spec={"volumes": [volume, {"name": "ca", "configMap": {"name": "ca"}}]})
    names = [v["name"] for v in body["spec"]["volumes"]]
    assert names == ["tmp", "home", "ca", "session"]
    assert volume in body["spec"]["volumes"]


def test_sidecars_come_after_the_worker() -> None:
    body = laid_over(spec={"containers": [{"name": "a-proxy", "image": "x"}], "initContainers": [{"name": "i"}]})
    assert [c["name"] for c in body["spec"]["containers"]] == ["worker", "a-proxy"]
    assert body["spec"]["initContainers"] == [{"name": "i"}]


def test_mounts_are_laid_over_by_path_and_ports_by_number() -> None:
    mounts = [{"name": "ca", "mountPath": "/ca"}, {"name": "big", "mountPath": "/tmp"}]
    body = laid_over(spec={"containers": [{"name": "worker", "volumeMounts": mounts, "ports": [{"containerPort": 9}]}]})
    found = {m["mountPath"]: m["name"] for m in worker(body)["volumeMounts"]}
    assert found == {"/session": "session", "/tmp": "big", "/home/claude": "home", "/ca": "ca"}
    assert [p["containerPort"] for p in worker(body)["ports"]] == [8080, 9]


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"disk": "ssd"}},
        {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"serviceAccountName": "theirs"},
        {"priorityClassName": "low"},
        {"runtimeClassName": "gvisor"},
        {"hostUsers": False},
    ],
)
def test_what_a_template_says_of_the_pod_is_so(spec: dict[str, Any]) -> None:
    body = laid_over(spec=spec)
    assert {k: body["spec"][k] for k in spec} == spec
    assert worker(body)["image"] == "img:1"


def test_resources_are_merged() -> None:
    body = laid_over(spec={"containers": [{"name": "worker", "resources": {"limits": {"memory": "8Gi"}}}]})
    assert worker(body)["resources"]["limits"] == {"memory": "8Gi", "ephemeral-storage": "4Gi"}
    assert worker(body)["resources"]["requests"]["cpu"] == "100m"


def test_the_pools_image_comes_before_the_operators() -> None:
    assert worker(manifest(pool(image="theirs")))["image"] == "theirs"


def hash_of(settings: OperatorSettings = SETTINGS, **spec: Any) -> str:
    return build.template_hash(build.template(pool(**spec), settings))


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "other"},
        {"model": "m"},
        {"models": {"x": "y"}},
        {"turnTimeout": "2h"},
        {"permissionMode": "plan"},
        {"systemPrompt": "replace"},
        {"toolActivity": "none"},
        {"tools": "client"},
        {"parkTimeout": "1m"},
        {"remoteImages": True},
        {"claude": {"memory": "x"}},
        {"claude": {"mcpServers": {"a": {"url": "u"}}}},
        {"claude": {"settings": {"model": "x"}}},
        {"claude": {"commands": {"a": "x"}}},
        {"claude": {"agents": {"a": "x"}}},
        {"claude": {"configMapRef": {"name": "x"}}},
        {"claude": {"slashCommands": True}},
        {"anthropic": {"baseURL": "u"}},
        {"anthropic": {"secretRef": {"name": "n"}}},
        {"podTemplate": {"metadata": {"labels": {"x": "y"}}}},
        {"podTemplate": {"spec": {"nodeSelector": {"x": "y"}}}},
    ],
)
def test_the_hash_changes_with_what_shapes_workers(spec: dict[str, Any]) -> None:
    assert hash_of(**spec) != hash_of()


@pytest.mark.parametrize(
    "spec",
    [
        {"size": 9},
        {"warm": 0},
        {"idleTimeout": "1h"},
        {"queueTimeout": "1h"},
        {"retention": "24h"},
        {"workspace": {"size": "1Gi"}},
        {"models": {"claude-code-haiku": "haiku", "claude-code-sonnet": "sonnet", "claude-code-opus": "opus"}},
    ],
)
def test_the_hash_stays_with_what_does_not(spec: dict[str, Any]) -> None:
    assert hash_of(**spec) == hash_of()


def test_the_hash_is_the_pods_label_and_the_same_for_every_pod() -> None:
    one = manifest(bound=session("x", uid="u1"))["metadata"]["labels"][TEMPLATE_LABEL]
    assert one == manifest()["metadata"]["labels"][TEMPLATE_LABEL] == hash_of()
    assert hash_of(OperatorSettings(worker_image="img:2", worker_key_file="k")) != hash_of()
    assert hash_of(WITH_GATEWAY) != hash_of()


def test_with_a_gateway_a_worker_has_a_token_of_its_own_and_no_key() -> None:
    made = pool(anthropic={"baseURL": "https://elsewhere", "secretRef": {"name": "key"}})
    body = manifest(made, settings=WITH_GATEWAY)
    assert "ANTHROPIC_API_KEY" not in env(body)
    assert env(body)["ANTHROPIC_BASE_URL"] == "http://gateway:8090"
    assert "secretKeyRef" not in json.dumps(body)
    [source] = next(v for v in body["spec"]["volumes"] if v["name"] == "gateway-token")["projected"]["sources"]
    token = source["serviceAccountToken"]
    assert token == {"audience": AUDIENCE, "expirationSeconds": 600, "path": "token"}
    [mount] = [m for m in worker(body)["volumeMounts"] if m["name"] == "gateway-token"]
    assert mount["readOnly"] is True
    assert env(body)["MODEL_TOKEN_FILE"] == f"{mount['mountPath']}/{token['path']}" == gateway.TOKEN_FILE
    assert body["spec"]["automountServiceAccountToken"] is False, "none for the API server"


def test_only_the_worker_s_own_container_has_the_token() -> None:
    made = pool(podTemplate={"spec": {"containers": [{"name": "proxy", "image": "x"}]}})
    body = manifest(made, settings=WITH_GATEWAY)
    mounted = [c["name"] for c in body["spec"]["containers"] for m in c.get("volumeMounts", [])
               if m["name"] == "gateway-token"]  # fmt: skip
    assert mounted == ["worker"]


def test_without_a_gateway_a_worker_is_as_ever() -> None:
    body = manifest(pool(anthropic={"secretRef": {"name": "key"}}))
    assert "gateway" not in json.dumps(body)
    assert not {"MODEL_TOKEN_FILE", "MODEL_RETRIES"} & set(env(body))
    assert env(body)["ANTHROPIC_API_KEY"] == {"secretKeyRef": {"name": "key", "key": "ANTHROPIC_API_KEY"}}


def test_a_gateway_has_an_address_of_the_web() -> None:
    environ = {"WORKER_IMAGE": "i", "WORKER_KEY_FILE": "k"}
    assert load_settings({**environ, "GATEWAY_URL": "http://g:1"}).gateway_url == "http://g:1"
    with pytest.raises(SettingsError, match="GATEWAY_URL"):
        load_settings({**environ, "GATEWAY_URL": "gateway:8090"})
