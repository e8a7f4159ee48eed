"""The chart's gateway and teams, as they are rendered; what test_chart.py holds of every part, it holds of these."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
import yaml

from claude_crds.settings import load
from claude_operator.settings import OperatorSettings
from claude_router.cluster.settings import ClusterSettings
from claude_router.gateway.folders import NAMES
from claude_router.gateway.settings import GatewaySettings
from cluster.chart import ALL, CHART, GATEWAY, Commands, Json, environment, named, pod_templates, render

ENABLED = "--set=gateway.enabled=true"


@pytest.fixture(scope="module")
def guarded(helm: Commands) -> list[Json]:
    return render(helm, f"--values={ALL}", f"--values={GATEWAY}")


def pod(objects: list[Json], name: str) -> Json:
    return next(p for p in pod_templates(objects) if p["metadata"]["name"] == name)


def sources(made: Json) -> dict[str, Any]:
    return {v["name"]: next(v[kind] for kind in v if kind != "name") for v in made["spec"]["volumes"]}


def test_off_there_is_nothing_of_it(helm: Commands) -> None:
    objects = render(helm, "--set=workerKey.existingSecret=k", "--set=gateway.enabled=false")
    text = json.dumps([o for o in objects if o["kind"] != "CustomResourceDefinition"])
    assert "gateway" not in text.lower()
    assert "ClaudeTeam" not in {o["kind"] for o in objects}
    assert environment(pod(objects, "claude-code-api-router"))["TEAMS"] == "true", "teams may be made without the chart"


def test_the_model_s_key_is_the_gateway_s_alone(guarded: list[Json]) -> None:
    assert "anthropic" not in named(guarded, "ClaudePool", "large")["spec"]
    having = {
        made["metadata"]["name"]
        for made in pod_templates(guarded)
        for key in ("model-key", "payments-key", "other-key")
        if key in json.dumps(made)
    }
    assert having == {"my-claude-gateway"}
    assert sources(pod(guarded, "my-claude-gateway"))["upstream"]["items"] == [
        {"key": "TOKEN", "path": "ANTHROPIC_API_KEY"}
    ]


@pytest.mark.parametrize("key", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_credential_is_what_its_name_says(helm: Commands, key: str) -> None:
    values = ("--set=anthropic.existingSecret=s", f"--set=anthropic.existingSecretKey={key}")
    volume = sources(pod(render(helm, ENABLED, *values), "claude-code-api-gateway"))["upstream"]
    assert volume["items"] == [{"key": key, "path": key}]
    assert "optional" not in volume


def test_a_cloud_s_account_is_the_whole_secret(helm: Commands) -> None:
    own_id = "arn:aws:bedrock:eu-west-1:1:inference-profile/a"
    betas = "{context-1m-2025-08-07,b-2}"
    values = (f'--set-json=gateway.upstream.models={{"claude-opus-5":"{own_id}"}}', "--set=anthropic.existingSecret=s",
              "--set=gateway.upstream.kind=bedrock", f"--set=gateway.upstream.betas={betas}")  # fmt: skip
    made = pod(render(helm, ENABLED, *values), "claude-code-api-gateway")
    assert sources(made)["upstream"] == {"secretName": "s", "defaultMode": 0o440}
    settings = load(GatewaySettings, {k: v for k, v in environment(made).items() if isinstance(v, str)})
    assert settings.upstream_kind == "bedrock"
    assert settings.upstream_models == {"claude-opus-5": own_id}
    assert settings.upstream_betas == ("context-1m-2025-08-07", "b-2")


def test_a_cloud_without_the_gateway_is_refused(helm: Commands) -> None:
    values = ("--set=gateway.enabled=false", "--set=gateway.upstream.kind=vertex")
    refused = helm.helm("template", "claude-code-api", str(CHART), *values)
    assert refused.returncode != 0
    assert "by the gateway only" in refused.stderr


def test_each_team_with_an_account_of_its_own_has_a_folder(guarded: list[Json]) -> None:
    projected = sources(pod(guarded, "my-claude-gateway"))["upstreams"]["sources"]
    secrets = [source["secret"] for source in projected]
    assert all(secret["optional"] for secret in secrets), "a team's missing Secret is that team's trouble"
    paths = {(secret["name"], item["path"]) for secret in secrets for item in secret["items"]}
    assert paths == {
        (secret, f"{team}/{name}")
        for team, secret in (("payments", "payments-key"), ("made-elsewhere", "other-key"))
        for name in NAMES
    }


def test_the_gateway_s_settings_are_some_that_it_has(guarded: list[Json], helm: Commands) -> None:
    known = {f.metadata["setting"].env for f in fields(GatewaySettings)}
    made = pod(guarded, "my-claude-gateway")
    env = environment(made)
    assert set(env) - known == {"EXTRA"}
    settings = load(GatewaySettings, {k: v for k, v in env.items() if isinstance(v, str)})
    assert (settings.port, settings.internal_port) == (8090, 8091)
    assert settings.upstream_url == "https://gateway.example.com/v1"
    assert (settings.shutdown_grace, settings.budget_ceiling, settings.retention_days) == (45.0, 150, 90)
    assert made["spec"]["terminationGracePeriodSeconds"] > 45
    mounts = {m["mountPath"]: m for m in made["spec"]["containers"][0]["volumeMounts"]}
    for path in (settings.upstream_dir, settings.team_upstreams_dir):
        assert mounts[path]["readOnly"] is True
    assert settings.prices_file.rpartition("/")[0] in mounts
    assert mounts[settings.ledger_file.rpartition("/")[0]]["name"] == "ledger"
    bare = environment(pod(render(helm, ENABLED), "claude-code-api-gateway"))
    assert not {"UPSTREAM_DIR", "UPSTREAM_URL", "TEAM_UPSTREAMS_DIR", "PRICES_FILE"} & set(bare)
    load(GatewaySettings, {k: v for k, v in bare.items() if isinstance(v, str)})


def test_router_and_operator_find_it_by_its_service(guarded: list[Json]) -> None:
    service = named(guarded, "Service", "my-claude-gateway")["spec"]
    numbers = {port["name"]: port["port"] for port in service["ports"]}
    made = pod(guarded, "my-claude-gateway")
    containers = {port["name"]: port["containerPort"] for port in made["spec"]["containers"][0]["ports"]}
    assert numbers == containers, "policies are about the pod's ports"
    assert service["selector"].items() <= made["metadata"]["labels"].items()
    host = "http://my-claude-gateway.default.svc"
    router, operator = environment(pod(guarded, "my-claude-router")), environment(pod(guarded, "my-claude-operator"))
    assert router["GATEWAY_URL"] == f"{host}:{numbers['internal']}"
    assert operator["GATEWAY_URL"] == f"{host}:{numbers['workers']}"
    assert router["AUDIT_LOG"] == "stdout"
    assert router["TEAM_METRICS"] == "true"
    for env, settings in ((router, ClusterSettings), (operator, OperatorSettings)):
        assert "GATEWAY_URL" in {f.metadata["setting"].env for f in fields(settings)}, env


def test_helm_test_makes_a_key_only_where_requests_need_a_teams(helm: Commands) -> None:
    def hooks(*values: str) -> tuple[set[str], Json]:
        made = [o for o in render(helm, *values) if o["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
        return {o["kind"] for o in made}, next(o for o in made if o["kind"] == "Pod")

    teams = ("--set=teams.a.admin=true", "--set=teams.b.models={claude-code-opus}")
    for values in ((), (*teams, "--set=router.apiKeys.existingSecret=k")):
        kinds, made = hooks(*values)
        assert kinds == {"Pod"}
        assert made["spec"]["automountServiceAccountToken"] is False
    for team, model, more in (("a", "claude-code", ()), ("b", "claude-code-opus", ("--set=test.team=b",))):
        kinds, made = hooks(*teams, *more)
        assert kinds == {"Pod", "ServiceAccount", "Role", "RoleBinding"}
        env = {e["name"]: e["value"] for e in made["spec"]["containers"][0]["env"]}
        assert (env["TEAM"], env["MODEL"]) == (team, model)


def test_its_ledger_outlives_every_version(guarded: list[Json]) -> None:
    spec = named(guarded, "StatefulSet", "my-claude-gateway")["spec"]
    assert spec["replicas"] == 1
    assert spec["podManagementPolicy"] == "Parallel", "a pod that is not Ready gets a mended template"
    assert "persistentVolumeClaimRetentionPolicy" not in spec, "the claim stays"
    [claim] = spec["volumeClaimTemplates"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(claim["metadata"]["labels"]), "it is immutable"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    assert not [o for o in guarded if o["kind"] == "PodDisruptionBudget" and o["metadata"]["name"].endswith("gateway")]


@pytest.mark.parametrize("name", ["r" * 53, "claude-code-api-" + "r" * 37, "f" * 44])
def test_its_pod_may_have_the_label_that_its_controller_gives_it(helm: Commands, name: str) -> None:
    """The name of a revision: the StatefulSet's, a hyphen and up to ten characters. Else there is no pod."""
    values = (f"--set=fullnameOverride={name}",) if name[0] == "f" else ()
    done = helm.helm("template", name, str(CHART), ENABLED, *values)
    assert done.returncode == 0, done.stderr
    (made,) = [o for o in yaml.safe_load_all(done.stdout) if o and o["kind"] == "StatefulSet"]
    assert 44 < len(made["metadata"]["name"]) <= 63 - 11


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ("gateway.enabled=true", True),
        ("anthropic.existingSecret=s", False),
        ("gateway.teamSecrets.a=s", False),
        ("teams.a.anthropic.secretRef.name=s", False),
        ("anthropic.baseURL=http://model", True),
        ("pool.podTemplate.spec.hostUsers=false", True),
        ("gateway.enabled=false", True),
        ("gateway.enabled=false,gateway.teamSecrets.a=s", True),
        ("gateway.enabled=false,anthropic.baseURL=http://model", False),
        ("gateway.enabled=false,pool.podTemplate.spec.hostUsers=false", False),
    ],
)
def test_the_notes_miss_a_key_that_can_be_used(helm: Commands, values: str, missing: bool) -> None:
    done = helm.helm("install", "x", str(CHART), "--dry-run=client", f"--set={values}")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "keeps conversations" in notes
    assert ("no key for the model" in notes) is missing


def test_its_metrics_are_followed_on_the_internal_port(guarded: list[Json]) -> None:
    monitor = named(guarded, "PodMonitor", "my-claude-gateway")["spec"]
    assert monitor["podMetricsEndpoints"] == [{"port": "internal", "path": "/metrics", "interval": "15s"}]
    assert monitor["selector"]["matchLabels"].items() <= pod(guarded, "my-claude-gateway")["metadata"]["labels"].items()


def test_teams_are_as_the_values_say(guarded: list[Json]) -> None:
    given = yaml.safe_load(GATEWAY.read_text())["teams"]
    made = {o["metadata"]["name"]: o["spec"] for o in guarded if o["kind"] == "ClaudeTeam"}
    assert made["payments"] == {**given["payments"], "poolRef": {"name": "large"}}
    assert isinstance(made["payments"]["maxSessions"], int), "no power of ten"
    assert made["platform"] == given["platform"]
    assert made["guests"] == {"poolRef": {"name": "large"}}


def test_a_team_s_name_is_always_text(helm: Commands) -> None:
    [made] = [o for o in render(helm, "--set=teams.123.maxLive=2") if o["kind"] == "ClaudeTeam"]
    assert made["metadata"]["name"] == "123"


def test_workers_may_get_no_token_but_by_their_pod(guarded: list[Json]) -> None:
    """The operator's pods name this account; nothing binds a right to it."""
    account = named(guarded, "ServiceAccount", "my-claude-worker")
    assert account["automountServiceAccountToken"] is False
    bound = [s["name"] for o in guarded if o["kind"].endswith("RoleBinding") for s in o["subjects"]]
    assert "my-claude-worker" not in bound
