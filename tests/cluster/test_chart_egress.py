"""The chart's proxies: what is rendered for each pool, and what the operator may do. See test_policies.py."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from claude_crds.settings import load
from claude_operator.settings import OperatorSettings
from cluster.chart import CHART, ROOT, Commands, Json, dry_run, environment, named, pod_templates, render, rights

LONG = "a-pool-with-a-very-long-name-that-does-not-fit-in-a-service"
OPTIONS = (
    "--set=egressProxy.enabled=true",
    f"--set=egressProxy.otherPools={{batch,{LONG}}}",
    "--set=egressProxy.allow={packages.example.org,*.example.com}",
    "--set=egressProxy.noProxy={packages.ns.svc}",
)


@pytest.fixture(scope="module")
def proxied(helm: Commands) -> list[Json]:
    return render(helm, *OPTIONS)


def proxies(objects: list[Json]) -> list[Json]:
    return [p for p in pod_templates(objects) if p["metadata"]["labels"]["app.kubernetes.io/component"] == "egress"]


def squid(objects: list[Json]) -> str:
    return str(named(objects, "ConfigMap", "claude-code-api-egress-default")["data"]["squid.conf"])


def test_off_there_is_nothing_of_it(helm: Commands) -> None:
    objects = [o for o in render(helm) if o["kind"] != "CustomResourceDefinition"]
    assert "egress-" not in json.dumps(objects)
    assert "egress" not in named(objects, "ClaudePool", "default")["spec"]
    assert "/configmaps" not in rights(named(objects, "Role", "claude-code-api-operator"))


def test_names_that_look_like_something_else_stay_names(helm: Commands) -> None:
    odd = ["1e3", "true", "0x10"]
    named_pools = "--set-json=egressProxy.otherPools=" + json.dumps(odd)
    made = render(helm, "--set=egressProxy.enabled=true", named_pools, "--set-string=pool.name=123")
    assert {p["metadata"]["labels"]["claude-code-api.io/pool"] for p in proxies(made)} == {*odd, "123"}
    for policy in (o for o in made if o["kind"] == "NetworkPolicy"):
        assert all(isinstance(v, str) for v in policy["spec"]["podSelector"].get("matchLabels", {}).values())


def test_no_two_objects_have_one_name(helm: Commands) -> None:
    pools = json.dumps(["default-workers", "default.workers", "a.b", "a-b", "p" * 55, "p" * 55 + "-workers"])
    made = render(helm, "--set=egressProxy.enabled=true", f"--set-json=egressProxy.otherPools={pools}")
    names = [(o["kind"], o["metadata"]["name"]) for o in made]
    assert sorted(set(names)) == sorted(names)
    assert len([kind for kind, name in names if kind == "NetworkPolicy" and "-egress-" in name]) == 2 * 7


def test_null_is_none(helm: Commands) -> None:
    url = "--set=pool.workspace.git.url=https://git.example.com/a"
    nulls = ("--set=egressProxy.otherPools=null", "--set=networkPolicy.workerBlockedCIDRs=null", "--set=teams.a=null",
             "--set-json=pool.workspace.git.secretRef=null", url)  # fmt: skip
    assert len(proxies(render(helm, "--set=egressProxy.enabled=true", *nulls))) == 1
    assert render(helm, "--set-json=teams.a=null")


@pytest.mark.parametrize("empty", ["[]", "null"])
@pytest.mark.parametrize("gateway", [True, False])
def test_a_list_of_rules_may_be_empty(helm: Commands, empty: str, gateway: bool) -> None:
    """Others stay as they are; where none is left, there is no way out."""
    lists = ("dns", "apiServer", "workerEgress", "gatewayEgress")
    options = [f"--set-json=networkPolicy.{name}={empty}" for name in lists]
    options += ["--set=egressProxy.enabled=true", f"--set-json=gateway.enabled={json.dumps(gateway)}"]
    policies = {o["metadata"]["name"]: o["spec"] for o in render(helm, *options) if o["kind"] == "NetworkPolicy"}
    ways = {
        name.removeprefix("claude-code-api-"): [
            [port["port"] for port in rule["ports"]] for rule in spec["egress"] or []
        ]
        for name, spec in policies.items()
    }
    expected: dict[str, list[list[int]]] = {
        "router": [[8080], [8091]] if gateway else [[8080]],
        "operator": [[8080]],
        "worker": [[8090]] if gateway else [],
        "egress-default": [[80, 443]],
        "egress-default.workers": [[3128]],
    }
    assert ways == expected | ({"gateway": [[443]]} if gateway else {})
    assert all("Egress" in spec["policyTypes"] for spec in policies.values()), "no rule is no way, not any"


def test_the_pool_names_what_the_values_name(proxied: list[Json]) -> None:
    assert named(proxied, "ClaudePool", "default")["spec"]["egress"] == {
        "allow": ["packages.example.org", "*.example.com"]
    }
    assert "packages.example.org" not in squid(proxied), "the list is the pool's"


def test_the_operator_knows_every_proxy_and_may_write_their_lists_only(proxied: list[Json]) -> None:
    operator = next(p for p in pod_templates(proxied) if p["metadata"]["name"] == "claude-code-api-operator")
    told = environment(operator)
    settings = load(OperatorSettings, {k: v for k, v in told.items() if k.startswith("EGRESS_")})
    services = {o["metadata"]["name"]: o for o in proxied if o["kind"] == "Service"}
    assert set(settings.egress_proxies) == {"default", "batch", LONG}
    for pool, url in settings.egress_proxies.items():
        found = re.fullmatch(r"http://([a-z0-9-]{1,63})\.default\.svc:3128", url)
        assert found, url
        selector = services[found[1]]["spec"]["selector"]
        (pod,) = [p for p in proxies(proxied) if selector.items() <= p["metadata"]["labels"].items()]
        (lists,) = [v["configMap"] for v in pod["spec"]["volumes"] if v["name"] == "list"]
        assert (lists["name"], lists["items"]) == (settings.egress_config_map, [{"key": pool, "path": "allow"}])
    assert settings.egress_no_proxy == ("packages.ns.svc",)
    rules = named(proxied, "Role", "claude-code-api-operator")["rules"]
    (rule,) = [r for r in rules if "configmaps" in r["resources"]]
    assert (rule["resourceNames"], rule["verbs"]) == ([settings.egress_config_map], ["patch"])
    assert "data" not in named(proxied, "ConfigMap", settings.egress_config_map), "Helm would take it back"


@pytest.mark.cluster
@pytest.mark.usefixtures("definitions")
def test_the_api_server_takes_it_and_it_is_restricted(commands: Commands, namespace: str, proxied: list[Json]) -> None:
    done = dry_run(commands, namespace, proxied)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    pods = proxies(proxied)
    assert len(pods) == 3
    for pod in pods:
        done = dry_run(commands, namespace, [pod])
        assert done.returncode == 0, done.stderr
        assert pod["spec"]["automountServiceAccountToken"] is False
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert not any("secret" in volume for volume in pod["spec"]["volumes"])


def test_squid_refuses_what_the_policies_refuse(helm: Commands, proxied: list[Json]) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]
    (private,) = re.findall(r"^acl private dst (.+)$", squid(proxied), flags=re.MULTILINE)
    assert private.split() == values["workerBlockedCIDRs"] + values["workerBlockedIPv6CIDRs"]
    rules = re.findall(r"^http_access (.+?) *$", squid(proxied), flags=re.MULTILINE)
    assert rules[0] == "deny !listed"
    assert rules[-2:] == ["deny private", "allow all"]
    excepted = squid(render(helm, *OPTIONS, "--set=egressProxy.privateCIDRs={10.1.2.3/32}"))
    assert "acl known dst 10.1.2.3/32\n" in excepted
    assert "http_access deny private !known\n" in excepted


def test_a_changed_configuration_replaces_the_proxies_and_a_changed_list_does_not(helm: Commands) -> None:
    def checksum(*more: str) -> str:
        pods = [o for o in render(helm, *OPTIONS, *more) if o["metadata"]["name"] == "claude-code-api-egress-default"]
        (made,) = [o for o in pods if o["kind"] == "Deployment"]
        return str(made["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("--set=egressProxy.allow={a.org}")
    assert checksum() != checksum("--set=egressProxy.accessLog=false")


def test_every_page_that_squid_is_told_of_is_in_the_image(proxied: list[Json]) -> None:
    told = set(re.findall(r"^deny_info (\S+)", squid(proxied), flags=re.MULTILINE))
    assert told == {path.name for path in (ROOT / "egress-image" / "errors").iterdir()}


@pytest.mark.parametrize("wrong", ["*", "*.com", "10.0.0.1", "A.org", "a.org:443", "a", ".a.org"])
def test_what_is_no_host_is_refused(helm: Commands, wrong: str) -> None:
    done = helm.helm(
        "template", "x", str(CHART), "--set=egressProxy.enabled=true", f"--set=egressProxy.allow={{{wrong}}}"
    )
    assert done.returncode != 0
    assert f"'/egressProxy/allow/0': '{wrong}' does not match pattern" in done.stderr


def test_the_schema_and_the_definition_say_the_same_of_a_host() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["egressProxy"]["properties"]["allow"]
    definition = yaml.safe_load((ROOT / "crds" / "claudepools.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["egress"]["properties"]["allow"]
    assert spec["items"]["pattern"] == schema["items"]["pattern"]
    assert spec["maxItems"] == schema["maxItems"]
