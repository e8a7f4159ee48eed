"""What the cluster counts itself: the API server's requests, the operator's waits. Pure but for the last function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import httpx

from cluster.stack import Cluster

WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"})
OURS = ("claudesessions", "claudepools", "pods", "persistentvolumeclaims", "events")
"""What turns may cause writes of. Leases are renewed all the time, turns or not."""
LEASES = "leases"

_SAMPLE = re.compile(r"^([a-z_]+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def samples(text: str, name: str) -> list[tuple[Mapping[str, str], float]]:
    """The samples of one metric with labels, of Prometheus' text format."""
    return [(dict(_LABEL.findall(m[2])), float(m[3])) for m in _SAMPLE.finditer(text) if m[1] == name]


def writes(text: str) -> Counter[str]:
    """How many writes of each resource the API server has been asked for, by its own metrics."""
    found: Counter[str] = Counter()
    for labels, value in samples(text, "apiserver_request_total"):
        if labels.get("verb") in WRITES:
            found[labels["resource"]] += round(value)
    return found


def between(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """What has been added, resource by resource."""
    return Counter({name: after[name] - before[name] for name in (*OURS, LEASES)})


def ours(counted: Counter[str]) -> int:
    return sum(counted[name] for name in OURS)


def waits(text: str) -> Mapping[str, tuple[float, float]]:
    """kind → (number, mean seconds) of the operator's `claude_operator_wait_seconds`."""
    counts = {labels["kind"]: value for labels, value in samples(text, "claude_operator_wait_seconds_count")}
    sums = {labels["kind"]: value for labels, value in samples(text, "claude_operator_wait_seconds_sum")}
    return {kind: (number, sums[kind] / number) for kind, number in counts.items() if number}


def operator_waits(cluster: Cluster) -> Mapping[str, tuple[float, float]]:
    """The same of the replica that leads: it alone has any."""
    found: dict[str, tuple[float, float]] = {}
    for pod in cluster.pods("operator"):
        with cluster.forwarded(pod["metadata"]["name"], 8081) as url:
            found |= waits(httpx.get(f"{url}/metrics", timeout=30).text)
    return found
