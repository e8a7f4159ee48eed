"""Who reaches whom where the chart's NetworkPolicies are enforced. No cluster: they are evaluated as defined."""

from __future__ import annotations

from typing import Any

import pytest

from claude_crds.resources import POOL_LABEL, labels
from claude_crds.views import ClaudeSession, Metadata, SessionSpec
from cluster.chart import Commands, Json, pod_templates, render
from cluster.policies import Place, allowed, matches, selecting

NAMESPACE = "claude"
SESSION = ClaudeSession(metadata=Metadata(name="s", uid="u"), spec=SessionSpec(conversation_id="c"))
GATEWAY = ("--set=anthropic.existingSecret=anthropic",)
OFF = "--set=gateway.enabled=false"
CLOSED = "--set=networkPolicy.workerInternet=false"
PROXIES = (
    "--set=egressProxy.enabled=true",
    "--set=egressProxy.otherPools={batch}",
    "--set=egressProxy.privateCIDRs={10.9.9.9/32}",
)
FROM_INGRESS = (
    "--set=networkPolicy.routerIngressFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=ingress"
)

OUTSIDE = {
    "internet": Place("93.184.215.14"),
    "internet-6": Place("2606:4700::1111"),
    "metadata": Place("169.254.169.254"),
    "metadata-6": Place("fd00:ec2::254"),
    "api-service": Place("10.96.0.1"),
    "api-server": Place("192.168.1.10"),
    "node": Place("192.168.1.11"),
    "private git": Place("10.9.9.9"),
    "dns-cache": Place("169.254.20.10"),
    "outsider": Place("10.244.9.9", "elsewhere", {"app": "x"}),
    "pretender": Place("10.244.9.8", "elsewhere", labels("default", SESSION)),
    "neighbour": Place("10.244.9.7", NAMESPACE, {"app": "x"}),
    "dns": Place("10.244.0.2", "kube-system", {"k8s-app": "kube-dns"}),
    "ingress": Place("10.244.0.3", "ingress", {"app": "nginx"}),
    "prometheus": Place("10.244.0.4", "monitoring", {"app": "prometheus"}),
}


class Net:
    """The rendered chart in its namespace, with two workers, and the world around it."""

    def __init__(self, objects: list[Json]) -> None:
        self.policies = [
            {**o, "metadata": {**o["metadata"], "namespace": NAMESPACE}}
            for o in objects
            if o["kind"] == "NetworkPolicy"
        ]
        self.places = {
            **OUTSIDE,
            "worker": Place("10.244.1.1", NAMESPACE, labels("default", SESSION)),
            "spare": Place("10.244.1.2", NAMESPACE, labels("default")),
            "batch worker": Place("10.244.2.1", NAMESPACE, labels("batch", SESSION)),
            "other worker": Place("10.244.2.2", NAMESPACE, labels("other", SESSION)),
        }
        for number, pod in enumerate(pod_templates(objects), 3):
            name = pod["metadata"]["labels"]["app.kubernetes.io/component"]
            if name == "egress":
                name = f"proxy of {pod['metadata']['labels'][POOL_LABEL]}"
            ports = {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", [])}
            self.places[name] = Place(f"10.244.1.{number}", NAMESPACE, pod["metadata"]["labels"], ports)

    def flows(self, source: str, target: str, port: int, protocol: str = "TCP") -> bool:
        return allowed(self.policies, self.places[source], self.places[target], port, protocol)


@pytest.fixture(scope="module")
def off(helm: Commands) -> Net:
    return Net(render(helm, FROM_INGRESS, OFF))


@pytest.fixture(scope="module")
def on(helm: Commands) -> Net:
    return Net(render(helm, FROM_INGRESS, *GATEWAY))


YES, NO = True, False
# From, to, port, and whether it is allowed without a gateway, and with one (None: there is no such end).
FLOWS: list[tuple[str, str, int, bool | None, bool]] = [
    # A worker reaches the model's way, and nothing of the cluster's.
    ("worker", "internet", 443, YES, YES),
    ("worker", "internet-6", 443, YES, YES),
    ("worker", "internet", 80, NO, NO),
    ("worker", "internet", 22, NO, NO),
    ("worker", "gateway", 8090, None, YES),
    ("spare", "gateway", 8090, None, YES),
    ("worker", "gateway", 8091, None, NO),
    ("worker", "gateway", 443, None, NO),
    ("worker", "api-service", 443, NO, NO),
    ("worker", "api-server", 6443, NO, NO),
    ("worker", "api-server", 443, NO, NO),
    ("worker", "metadata", 80, NO, NO),
    ("worker", "metadata", 443, NO, NO),
    ("worker", "metadata-6", 80, NO, NO),
    ("worker", "metadata-6", 443, NO, NO),
    ("worker", "node", 10250, NO, NO),
    ("worker", "node", 443, NO, NO),
    ("worker", "spare", 8080, NO, NO),
    ("worker", "spare", 443, NO, NO),
    ("worker", "router", 3000, NO, NO),
    ("worker", "operator", 8081, NO, NO),
    ("worker", "neighbour", 443, NO, NO),
    ("worker", "outsider", 443, NO, NO),
    ("worker", "dns", 443, NO, NO),
    # A worker is reached by router and operator, on the shim's port.
    ("router", "worker", 8080, YES, YES),
    ("router", "spare", 8080, YES, YES),
    ("operator", "worker", 8080, YES, YES),
    ("router", "worker", 22, NO, NO),
    ("gateway", "worker", 8080, None, NO),
    ("outsider", "worker", 8080, NO, NO),
    ("pretender", "worker", 8080, NO, NO),
    ("neighbour", "worker", 8080, NO, NO),
    ("internet", "worker", 8080, NO, NO),
    ("ingress", "worker", 8080, NO, NO),
    ("test", "worker", 8080, NO, NO),
    # The gateway: workers on their port, the router on the other, nobody else.
    ("router", "gateway", 8091, None, YES),
    ("router", "gateway", 8090, None, NO),
    ("operator", "gateway", 8090, None, NO),
    ("operator", "gateway", 8091, None, NO),
    ("outsider", "gateway", 8090, None, NO),
    ("pretender", "gateway", 8090, None, NO),
    ("neighbour", "gateway", 8090, None, NO),
    ("neighbour", "gateway", 8091, None, NO),
    ("prometheus", "gateway", 8091, None, NO),
    ("gateway", "internet", 443, None, YES),
    ("gateway", "internet-6", 443, None, YES),
    ("gateway", "internet", 80, None, NO),
    ("gateway", "api-server", 6443, None, YES),
    ("gateway", "api-service", 443, None, YES),
    ("gateway", "metadata", 80, None, NO),
    ("gateway", "router", 3000, None, NO),
    # Router and operator.
    ("ingress", "router", 3000, YES, YES),
    ("test", "router", 3000, YES, YES),
    ("outsider", "router", 3000, NO, NO),
    ("router", "api-server", 6443, YES, YES),
    ("operator", "api-service", 443, YES, YES),
    ("router", "metadata", 80, NO, NO),
    ("operator", "metadata", 80, NO, NO),
    ("prometheus", "operator", 8081, YES, YES),
]


@pytest.mark.parametrize(("source", "target", "port", "without", "with_gateway"), FLOWS)
def test_who_reaches_whom(
    off: Net, on: Net, source: str, target: str, port: int, without: bool | None, with_gateway: bool
) -> None:
    if without is not None:
        assert off.flows(source, target, port) is without, "without a gateway"
    assert on.flows(source, target, port) is with_gateway, "with a gateway"


@pytest.mark.parametrize("source", ["worker", "router", "operator", "gateway"])
@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_all_find_the_name_server(on: Net, source: str, protocol: str) -> None:
    assert on.flows(source, "dns", 53, protocol)
    assert on.flows(source, "dns-cache", 53, protocol)
    assert not on.flows(source, "internet", 53, protocol)


def test_443_is_of_tcp_only(off: Net) -> None:
    assert not off.flows("worker", "internet", 443, "UDP")


def test_every_pod_of_ours_is_isolated_both_ways(on: Net) -> None:
    for name in ("worker", "spare", "router", "operator", "gateway"):
        assert len(selecting(on.policies, on.places[name], "ingress")) == 1, name
        assert len(selecting(on.policies, on.places[name], "egress")) == 1, name


@pytest.mark.parametrize("more", [(), (OFF,)])
def test_workers_may_be_kept_from_the_internet(helm: Commands, more: tuple[str, ...]) -> None:
    net = Net(render(helm, *GATEWAY, CLOSED, *more))
    assert not net.flows("worker", "internet", 443)
    assert not net.flows("worker", "internet-6", 443)
    assert net.flows("worker", "dns", 53, "UDP")
    assert more or net.flows("worker", "gateway", 8090)


def test_more_may_be_allowed_by_values(helm: Commands) -> None:
    label = "namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name"
    model = "networkPolicy.gatewayEgress[0]"
    net = Net(render(
        helm, *GATEWAY, f"--set=networkPolicy.gatewayIngressFrom[0].{label}=monitoring",
        f"--set={model}.to[0].{label}=elsewhere", f"--set={model}.ports[0].port=4000",
    ))  # fmt: skip
    assert net.flows("prometheus", "gateway", 8091)
    assert not net.flows("prometheus", "gateway", 8090)
    assert net.flows("gateway", "outsider", 4000)
    assert not net.flows("worker", "outsider", 4000)


def test_without_policies_all_is_open(helm: Commands) -> None:
    net = Net(render(helm, *GATEWAY, "--set=networkPolicy.enabled=false"))
    assert net.policies == []
    assert net.flows("worker", "gateway", 8091)


@pytest.fixture(scope="module")
def proxied(helm: Commands) -> Net:
    return Net(render(helm, *GATEWAY, *PROXIES))


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        ("worker", "proxy of default", 3128, YES),
        ("spare", "proxy of default", 3128, YES),
        ("batch worker", "proxy of batch", 3128, YES),
        ("worker", "proxy of batch", 3128, NO),
        ("batch worker", "proxy of default", 3128, NO),
        ("other worker", "proxy of default", 3128, NO),
        ("worker", "proxy of default", 80, NO),
        # Its proxy and the gateway are all that a worker reaches.
        ("worker", "gateway", 8090, YES),
        ("worker", "internet", 443, NO),
        ("worker", "internet", 80, NO),
        ("other worker", "internet", 443, NO),
        ("worker", "private git", 443, NO),
        # A proxy is for workers.
        ("router", "proxy of default", 3128, NO),
        ("gateway", "proxy of default", 3128, NO),
        ("neighbour", "proxy of default", 3128, NO),
        ("pretender", "proxy of default", 3128, NO),
        ("outsider", "proxy of default", 3128, NO),
        # It reaches what is public, and what was named.
        ("proxy of default", "internet", 443, YES),
        ("proxy of default", "internet", 80, YES),
        ("proxy of default", "internet-6", 443, YES),
        ("proxy of default", "internet", 22, NO),
        ("proxy of default", "private git", 443, YES),
        ("proxy of default", "private git", 22, NO),
        ("proxy of default", "metadata", 80, NO),
        ("proxy of default", "metadata-6", 80, NO),
        ("proxy of default", "api-service", 443, NO),
        ("proxy of default", "api-server", 6443, NO),
        ("proxy of default", "node", 443, NO),
        ("proxy of default", "worker", 8080, NO),
        ("proxy of default", "gateway", 8090, NO),
        ("proxy of default", "gateway", 8091, NO),
        ("proxy of default", "router", 3000, NO),
        ("proxy of default", "proxy of batch", 3128, NO),
    ],
)
def test_a_pool_s_workers_have_a_proxy_of_their_own(
    proxied: Net, source: str, target: str, port: int, expected: bool
) -> None:
    assert proxied.flows(source, target, port) is expected


@pytest.mark.parametrize("setting", [(), (OFF,)])
def test_a_proxy_is_the_only_way_out_unless_that_is_said(helm: Commands, setting: tuple[str, ...]) -> None:
    assert not Net(render(helm, *PROXIES, *setting)).flows("worker", "internet", 443)
    opened = Net(render(helm, *PROXIES, *setting, "--set=networkPolicy.workerInternet=true"))
    assert opened.flows("worker", "internet", 443)


# --- the evaluator itself ---

POD = Place("10.0.0.1", "a", {"x": "1"}, {"web": 80})
OTHER = Place("10.0.0.2", "b", {"x": "2"}, namespace_labels={"zone": "green"})


def policy(namespace: str = "a", **spec: Any) -> Json:
    return {"metadata": {"namespace": namespace}, "spec": {"podSelector": {}, **spec}}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, True),
        ({}, True),
        ({"matchLabels": {"x": "1"}}, True),
        ({"matchLabels": {"x": "2"}}, False),
        ({"matchExpressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "y", "operator": "In", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "y", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "x", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"x": "1"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors(selector: Json | None, expected: bool) -> None:
    assert matches(selector, POD.labels) is expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, False),
        ({"policyTypes": ["Egress"]}, True),
        ({"policyTypes": ["Ingress"], "ingress": [{}]}, True),
        ({"podSelector": {"matchLabels": {"x": "other"}}}, True),
        ({"ingress": [{"from": []}]}, True),
        ({"ingress": [{"from": [{"podSelector": {}}]}]}, False),
        ({"ingress": [{"from": [{"namespaceSelector": {}}]}]}, True),
        ({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"zone": "green"}}}]}]}, True),
        ({"ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"x": "1"}}}]}]}, False),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}, True),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.2/32"]}}]}]}, False),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]}, False),
        ({"ingress": [{"ports": [{"port": 80}]}]}, True),
        ({"ingress": [{"ports": [{"port": "web"}]}]}, True),
        ({"ingress": [{"ports": [{"port": "unknown"}]}]}, False),
        ({"ingress": [{"ports": [{"port": 80, "protocol": "UDP"}]}]}, False),
        ({"ingress": [{"ports": [{"protocol": "TCP"}]}]}, True),
        ({"ingress": [{"ports": [{"port": 70, "endPort": 90}]}]}, True),
        ({"ingress": [{"ports": [{"port": 70, "endPort": 79}]}]}, False),
        ({"ingress": [{"ports": [{"port": 81}]}, {"ports": [{"port": 80}], "from": [{"podSelector": {}}]}]}, False),
    ],
)
def test_rules(spec: Json, expected: bool) -> None:
    assert allowed([policy(**spec)], OTHER, POD, 80) is expected


def test_both_ends_must_let_it_be_and_policies_add_up() -> None:
    closed = policy("b", policyTypes=["Egress"])
    assert not allowed([closed], OTHER, POD, 80)
    opened = policy("b", policyTypes=["Egress"], egress=[{"ports": [{"port": 80}]}])
    assert allowed([closed, opened], OTHER, POD, 80)
    assert not allowed([closed, opened, policy()], OTHER, POD, 80)
    assert allowed([policy("b", egress=[{}])], Place("1.2.3.4"), POD, 80), "another namespace's"


def test_a_policy_with_egress_rules_is_of_both_kinds() -> None:
    assert not allowed([policy("b", egress=[{"ports": [{"port": 81}]}])], OTHER, POD, 80)
