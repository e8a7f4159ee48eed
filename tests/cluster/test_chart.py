"""The chart: what it renders, what the API server makes of it, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from claude_crds import __version__
from claude_crds.apikeys import SHARDS, shard_name
from cluster.chart import (
    ALL,
    CHART,
    GATEWAY,
    ROOT,
    Commands,
    Json,
    dry_run,
    environment,
    named,
    pod_templates,
    render,
    rights,
)

pytestmark = [pytest.mark.cluster]
FOREIGN = {"HTTPRoute", "ServiceMonitor", "PodMonitor"}
"""Kinds that the test cluster does not know: only their shape is looked at, not by their own definitions."""

ROUTER_RIGHTS = {
    "claude-code-api.io/claudesessions": {"get", "list", "watch", "create", "patch", "delete"},
    "claude-code-api.io/claudepools": {"get", "list", "watch"},
    "claude-code-api.io/claudeteams": {"get", "list", "watch"},
    "/secrets": {"get", "list", "watch"},
}
OPERATOR_RIGHTS = {
    "claude-code-api.io/claudesessions": {"get", "list", "watch", "patch", "delete"},
    "claude-code-api.io/claudesessions/status": {"patch"},
    "claude-code-api.io/claudepools": {"get", "list", "watch"},
    "claude-code-api.io/claudepools/status": {"patch"},
    "claude-code-api.io/claudeteams": {"get", "list", "watch"},
    "claude-code-api.io/claudeteams/status": {"patch"},
    "/secrets": {"get"},
    "/pods": {"get", "list", "watch", "create", "patch", "delete"},
    "/persistentvolumeclaims": {"get", "list", "watch", "create", "patch", "delete"},
    "/events": {"create"},
    "coordination.k8s.io/leases": {"get", "create", "patch"},
}
GATEWAY_RIGHTS = {
    "/pods": {"get", "list", "watch"},
    "claude-code-api.io/claudesessions": {"get", "list", "watch"},
    "claude-code-api.io/claudepools": {"get", "list", "watch"},
    "claude-code-api.io/claudeteams": {"get", "list", "watch"},
    "claude-code-api.io/claudeteams/status": {"patch"},
    "claude-code-api.io/claudesessions/status": {"patch"},
    "/events": {"create"},
}
CRD_RIGHTS = {"apiextensions.k8s.io/customresourcedefinitions": {"get", "list", "watch", "patch"}}


@pytest.fixture(scope="module")
def plain(helm: Commands) -> list[Json]:
    return render(helm)


@pytest.fixture(scope="module")
def whole(helm: Commands) -> list[Json]:
    return render(helm, f"--values={ALL}")


@pytest.fixture(scope="module")
def guarded(helm: Commands) -> list[Json]:
    """All options, with the gateway and teams."""
    return render(helm, f"--values={ALL}", f"--values={GATEWAY}")


@pytest.mark.parametrize("values", [(), (f"--values={ALL}",), (f"--values={ALL}", f"--values={GATEWAY}")])
def test_helm_s_own_checks(helm: Commands, values: tuple[str, ...]) -> None:
    done = helm.helm("lint", "--strict", str(CHART), *values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_version_for_all() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_definitions_are_the_repository_s_own(helm: Commands, tmp_path: Path) -> None:
    shown = helm.helm("show", "crds", str(CHART))
    ours = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert [found for found in yaml.safe_load_all(shown.stdout) if found] == ours
    assert all(path.is_symlink() for path in (CHART / "crds").iterdir())
    packed = helm.helm("package", str(CHART), f"--destination={tmp_path}")
    assert packed.returncode == 0, packed.stderr
    shown = helm.helm("show", "crds", str(next(tmp_path.glob("*.tgz"))))
    assert [found for found in yaml.safe_load_all(shown.stdout) if found] == ours


@pytest.mark.usefixtures("definitions")
def test_the_api_server_takes_the_default(commands: Commands, namespace: str, plain: list[Json]) -> None:
    done = dry_run(commands, namespace, plain)
    assert done.returncode == 0, done.stderr
    assert not {o["kind"] for o in plain} & {"Ingress", "HorizontalPodAutoscaler", "ClaudeTeam", *FOREIGN}


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("values", ["whole", "guarded"])
def test_the_api_server_takes_all_options_at_once(
    commands: Commands, namespace: str, values: str, request: pytest.FixtureRequest
) -> None:
    whole: list[Json] = request.getfixturevalue(values)
    assert {o["kind"] for o in whole} > {"Ingress", "HorizontalPodAutoscaler", *FOREIGN}
    done = dry_run(commands, namespace, [o for o in whole if o["kind"] not in FOREIGN])
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_the_shape_of_what_the_test_cluster_does_not_know(whole: list[Json]) -> None:
    service = named(whole, "Service", "my-claude")
    route = named(whole, "HTTPRoute", "my-claude")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["parentRefs"] == [{"name": "gateway", "namespace": "gateways"}]
    rule = route["spec"]["rules"][0]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["backendRefs"] == [{"name": "my-claude", "port": service["spec"]["ports"][0]["port"]}]
    monitor = named(whole, "ServiceMonitor", "my-claude-router")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "15s"}]
    pods = named(whole, "PodMonitor", "my-claude")["spec"]
    assert pods["podMetricsEndpoints"] == monitor["endpoints"]
    assert pods["selector"]["matchExpressions"][0]["values"] == ["operator"]


@pytest.mark.parametrize(("values", "count"), [("plain", 5), ("whole", 4), ("guarded", 5)])
def test_every_pod_meets_the_restricted_standard(
    commands: Commands, namespace: str, values: str, count: int, request: pytest.FixtureRequest
) -> None:
    pods = pod_templates(request.getfixturevalue(values))
    assert len(pods) == count
    for pod in pods:
        # Its account and a StatefulSet's claims are not there in a dry run; the standard does not care whose they are.
        spec = pod["spec"]
        volumes = {v["name"]: v for v in spec.get("volumes", [])}
        mounted = [m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])]
        claimed = [{"name": name, "emptyDir": {}} for name in mounted if name not in volumes]
        pod = {**pod, "spec": {**spec, "serviceAccountName": "default", "volumes": [*volumes.values(), *claimed]}}
        done = dry_run(commands, namespace, [pod])
        assert done.returncode == 0, done.stderr
        container = pod["spec"]["containers"][0]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["enableServiceLinks"] is False
    unsafe = {**pods[0], "spec": {**pods[0]["spec"], "serviceAccountName": "default", "hostNetwork": True}}
    assert "violates PodSecurity" in dry_run(commands, namespace, [unsafe]).stderr


def test_rights_are_those_of_the_contract_and_no_others(plain: list[Json], guarded: list[Json]) -> None:
    assert rights(named(guarded, "Role", "my-claude-gateway")) == GATEWAY_RIGHTS
    assert named(guarded, "ServiceAccount", "my-claude-gateway")["automountServiceAccountToken"] is False
    assert rights(named(plain, "Role", "claude-code-api-router")) == ROUTER_RIGHTS
    assert rights(named(plain, "Role", "claude-code-api-operator")) == OPERATOR_RIGHTS
    secrets = [rule for o in plain if o["kind"] == "Role" for rule in o["rules"] if "secrets" in rule["resources"]]
    assert len(secrets) == 2, "the operator's and the router's"
    for rule in secrets:
        assert rule["resourceNames"] == [shard_name(n) for n in range(SHARDS)], "those with keys' hashes only"
    roles = [o["metadata"]["name"] for o in plain if o["kind"] == "Role"]
    assert roles == ["claude-code-api-gateway", "claude-code-api-operator", "claude-code-api-router"]
    crds = next(o for o in plain if o["kind"] == "ClusterRole")
    assert rights(crds) == CRD_RIGHTS
    assert crds["rules"][0]["resourceNames"] == [
        f"{plural}.claude-code-api.io" for plural in ("claudepools", "claudesessions", "claudeteams")
    ]
    assert "pre-upgrade" in crds["metadata"]["annotations"]["helm.sh/hook"], "gone once it is done"
    for binding in (o for o in plain if o["kind"] in ("RoleBinding", "ClusterRoleBinding")):
        account = binding["subjects"][0]["name"]
        assert binding["roleRef"]["name"].endswith(account)
        assert named(plain, "ServiceAccount", account)["automountServiceAccountToken"] is False
    assert named(plain, "ServiceAccount", "claude-code-api-worker")["automountServiceAccountToken"] is False


def test_no_secret_is_anywhere_but_in_secrets(plain: list[Json], whole: list[Json], guarded: list[Json]) -> None:
    secret = named(plain, "Secret", "claude-code-api-worker-key")["data"]["key"]
    assert len(secret) >= 64
    rest = json.dumps([o for o in plain if o["kind"] != "Secret"])
    assert secret not in rest
    assert not [o for o in whole if o["kind"] == "Secret"], "all are the user's own"
    for pod in pod_templates(whole) + pod_templates(guarded):
        for variable in pod["spec"]["containers"][0].get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {}), "keys come in files, which no child inherits"


def test_who_gets_which_key(whole: list[Json]) -> None:
    mounted = {}
    for pod in pod_templates(whole):
        volumes = [v["secret"] for v in pod["spec"].get("volumes", []) if "secret" in v]
        assert not any(v.get("optional") for v in volumes), "an endpoint without its keys would be open"
        mounted[pod["metadata"]["name"]] = {v["secretName"] for v in volumes}
    assert mounted == {
        "my-claude-router": {"own-key", "client-keys"},
        "my-claude-operator": {"own-key"},
        "my-claude-test": {"client-keys"},
        "my-claude-crds": set(),
    }


def test_the_pool_and_the_processes_get_what_the_values_say(whole: list[Json]) -> None:
    values = yaml.safe_load(ALL.read_text())
    pool = named(whole, "ClaudePool", "large")
    expected = {k: v for k, v in values["pool"].items() if k != "name"}
    expected["anthropic"] = {
        "secretRef": {"name": "model-key", "key": "TOKEN"},
        "baseURL": "https://gateway.example.com/v1",
    }
    assert pool["spec"] == expected
    pods = {pod["metadata"]["name"]: pod for pod in pod_templates(whole)}
    router, operator = environment(pods["my-claude-router"]), environment(pods["my-claude-operator"])
    assert router["POOL"] == "large"
    assert (router["KEEPALIVE_MS"], router["MAX_QUEUE"], router["MAX_BODY_BYTES"]) == ("2500", "4", "16777216")
    assert router["SHUTDOWN_GRACE_MS"] == "300000"
    assert pods["my-claude-router"]["spec"]["terminationGracePeriodSeconds"] > 300
    assert operator["WORKER_IMAGE"] == "registry.example.com/team/own-worker:1.2"
    assert operator["WORKER_IMAGE_PULL_POLICY"] == "Never"
    assert operator["WORKER_SERVICE_ACCOUNT"] == "my-claude-worker"
    images = [pod["spec"]["containers"][0]["image"] for pod in pods.values()]
    assert f"registry.example.com/team/own-router@sha256:{'0123456789abcdef' * 4}" in images
    assert "registry.example.com/team/own-operator:2" in images
    assert "replicas" not in named(whole, "Deployment", "my-claude-router")["spec"], "the autoscaler's to set"


def test_what_is_not_set_is_left_to_the_definition(plain: list[Json]) -> None:
    spec = named(plain, "ClaudePool", "default")["spec"]
    assert (spec["size"], spec["warm"]) == (5, 1)
    assert not {"retention", "image", "model", "models", "anthropic", "podTemplate", "claude", "remoteImages"} & set(
        spec
    )
    router = next(p for p in pod_templates(plain) if p["metadata"]["name"] == "claude-code-api-router")
    assert environment(router)["MAX_BODY_BYTES"] == str(32 * 1024 * 1024), "no power of ten"


def test_workers_are_reached_by_router_and_operator_and_reach_no_private_address(whole: list[Json]) -> None:
    policy = named(whole, "NetworkPolicy", "my-claude-worker")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (way_in,) = policy["ingress"]
    components = [f["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for f in way_in["from"]]
    assert (components, way_in["ports"]) == (["router", "operator"], [{"protocol": "TCP", "port": 8080}])
    public, dns, own = policy["egress"]
    assert public["ports"] == [{"protocol": "TCP", "port": 443}]
    blocked = {cidr for to in public["to"] for cidr in to["ipBlock"]["except"]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"} <= blocked
    assert {p["port"] for p in dns["ports"]} == {53}
    assert own["ports"] == [{"protocol": "TCP", "port": 8443}]
    (router_in,) = named(whole, "NetworkPolicy", "my-claude-router")["spec"]["ingress"]
    assert len(router_in["from"]) == 2, "the given one, and `helm test`"
    for workload in (o for o in whole if o["kind"] == "Deployment"):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        selector = named(whole, "NetworkPolicy", workload["metadata"]["name"])["spec"]["podSelector"]["matchLabels"]
        assert selector.items() <= labels.items()


def test_the_service_finds_the_routers_only(whole: list[Json]) -> None:
    selector = named(whole, "Service", "my-claude")["spec"]["selector"].items()
    found = [pod["metadata"]["name"] for pod in pod_templates(whole) if selector <= pod["metadata"]["labels"].items()]
    assert found == ["my-claude-router"]


def test_the_notes_say_what_is_missing_and_what_is_kept(commands: Commands, namespace: str) -> None:
    options = ("--dry-run=server", f"--namespace={namespace}")
    done = commands.helm("install", "claude-code-api", str(CHART), *options)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for needed in (
        "port-forward",
        "get claudesessions",
        "no key for the model",
        "whoever reaches",
        "keeps conversations",
    ):
        assert needed in notes
    done = commands.helm("install", "claude-code-api", str(CHART), *options, f"--values={ALL}")
    assert done.returncode == 0 or re.search("HTTPRoute|Monitor", done.stderr), done.stderr
