"""What NetworkPolicies allow, as their definition says it: for tests without a network that enforces them. Pure.

An `ipBlock` is taken to match pods by their addresses, too. Networks differ there; this is the wider reading, so what
is denied here is denied by all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal

Json = dict[str, Any]
Direction = Literal["ingress", "egress"]

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""On every namespace, set by the API server."""


@dataclass(frozen=True)
class Place:
    """A pod, or with `namespace` "" an address outside of the pods' network, to which no policy applies."""

    address: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Its named ports."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_namespace_labels(self) -> Mapping[str, str]:
        return {**self.namespace_labels, NAMESPACE_LABEL: self.namespace}


def allowed(policies: Iterable[Json], source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection may be opened: both ends must let it be."""
    policies = list(policies)
    return _lets(policies, "egress", source, target, (target, port, protocol)) and _lets(
        policies, "ingress", target, source, (target, port, protocol)
    )


def selecting(policies: Iterable[Json], place: Place, direction: Direction) -> list[Json]:
    """The policies that isolate the place in that direction; none: everything is allowed."""
    if not place.namespace:
        return []
    return [
        policy
        for policy in policies
        if policy["metadata"].get("namespace", place.namespace) == place.namespace
        and matches(policy["spec"].get("podSelector"), place.labels)
        and direction.capitalize() in _types(policy["spec"])
    ]


def matches(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """A label selector; an empty one matches everything."""
    selector = selector or {}
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions") or [])


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise ValueError(f"no operator of a label selector: {other}")


def _types(spec: Json) -> list[str]:
    found: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return found


def _lets(policies: list[Json], direction: Direction, place: Place, other: Place, way: tuple[Place, int, str]) -> bool:
    isolating = selecting(policies, place, direction)
    if not isolating:
        return True
    peers = "to" if direction == "egress" else "from"
    return any(
        _port_matches(rule.get("ports"), *way) and _peer_matches(rule.get(peers), other, place.namespace)
        for policy in isolating
        for rule in policy["spec"].get(direction) or []
    )


def _port_matches(ports: list[Json] | None, target: Place, port: int, protocol: str) -> bool:
    """No list, or an empty one: every port."""
    if not ports:
        return True
    for entry in ports:
        if entry.get("protocol", "TCP") != protocol:
            continue
        wanted = entry.get("port")
        if wanted is None:
            return True
        first = target.ports.get(wanted, 0) if isinstance(wanted, str) else int(wanted)
        if first and first <= port <= int(entry.get("endPort", first)):
            return True
    return False


def _peer_matches(peers: list[Json] | None, other: Place, namespace: str) -> bool:
    """`namespace`: the policy's own, in which a `podSelector` alone looks."""
    return not peers or any(_is_peer(peer, other, namespace) for peer in peers)


def _is_peer(peer: Json, other: Place, namespace: str) -> bool:
    if (block := peer.get("ipBlock")) is not None:
        address = ip_address(other.address)
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(cidr) for cidr in block.get("except") or []
        )
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        there = matches(peer["namespaceSelector"], other.all_namespace_labels)
    else:
        there = other.namespace == namespace
    return there and matches(peer.get("podSelector"), other.labels)
