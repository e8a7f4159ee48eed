"""The pure parts of the benchmark on a cluster; that it runs is seen when it is run."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench_cluster import in_pod
from bench_cluster.held import resident_kib
from bench_cluster.pods import bare, bare_claim
from bench_cluster.starts import ends
from bench_cluster.telling import between, ours, samples, waits, writes
from bench_cluster.timeline import ADDRESS, ASKED, CLAIMED, READY, STARTED, medians, seen
from bench_cluster.turns import Counted
from claude_crds.resources import SESSION_LABEL
from claude_crds.views import ClaudeSession, Metadata, Object, Pod, PodStatus, SessionSpec, SessionStatus
from claude_operator import build
from claude_operator.settings import OperatorSettings
from cluster.stack import Json
from cluster.watching import Change

REQUESTS = """# HELP apiserver_request_total Counter of requests.
# TYPE apiserver_request_total counter
apiserver_request_total{code="201",resource="pods",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="200",resource="pods",subresource="status",verb="PATCH",version="v1"} 4
apiserver_request_total{code="200",resource="pods",subresource="",verb="LIST",version="v1"} 50
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT",version="v1"} 1.2e+03
apiserver_request_total{code="200",resource="nodes",subresource="status",verb="PATCH",version="v1"} 9
apiserver_request_total_other{resource="pods",verb="POST"} 7
"""


def test_writes_are_counted_by_resource() -> None:
    assert writes(REQUESTS) == {"pods": 7, "leases": 1200, "nodes": 9}


def test_what_is_ours_is_counted_without_leases_and_nodes() -> None:
    added = between(Counter(pods=7, leases=1200, nodes=9), Counter(pods=9, leases=1203, nodes=99, claudesessions=4))
    assert (added["pods"], added["claudesessions"], added["leases"], added["nodes"]) == (2, 4, 3, 0)
    assert ours(added) == 6


def test_what_an_idle_cluster_writes_is_not_the_turns() -> None:
    idle = Counted(Counter(pods=4, claudepools=1, events=9), Counter(), 10.0)
    busy = Counted(Counter(pods=10, claudepools=5, events=2, leases=50), Counter(), 20.0)
    added = busy.less(idle)
    assert {name: number for name, number in added.items() if number} == {"pods": 2, "claudepools": 3}


def test_a_label_may_hold_anything() -> None:
    assert samples('a_total{x="1,y=2",z="q\\"}"} 5\n', "a_total") == []  # `}` ends it: no metric of ours has one
    assert samples('a_total{x="1,y=2",z=""} 5\n', "a_total") == [({"x": "1,y=2", "z": ""}, 5.0)]


def test_waits_are_means() -> None:
    text = (
        'claude_operator_wait_seconds_bucket{kind="claim",le="0.05"} 1.0\n'
        'claude_operator_wait_seconds_count{kind="claim"} 4.0\nclaude_operator_wait_seconds_sum{kind="claim"} 0.2\n'
        'claude_operator_wait_seconds_count{kind="start"} 0.0\nclaude_operator_wait_seconds_sum{kind="start"} 0.0\n'
    )
    assert waits(text) == {"claim": (4.0, 0.05)}


def test_resident_memory() -> None:
    assert resident_kib("Name:\tpython3\nVmHWM:\t   99 kB\nVmRSS:\t   61234 kB\n") == 61234
    with pytest.raises(ValueError, match="no VmRSS"):
        resident_kib("Name:\tzombie\n")


def test_ends() -> None:
    assert [name for name, _ in ends([1.0] * 9)] == ["most"]
    assert [name for name, _ in ends([1.0] * 10)] == ["p90", "most"]


# -- bare pods ---------------------------------------------------------------------------------------------------------


def worker() -> Json:
    """A worker's pod as the operator makes it."""
    from claude_crds.views import ClaudePool, PoolSpec  # noqa: PLC0415

    pool = ClaudePool(metadata=Metadata(name="default", uid="1"), spec=PoolSpec())
    made = build.template(pool, OperatorSettings(worker_image="worker:dev", worker_key_file="key"))
    return build.pod(made, pool, "spare", "volume", "t0ken", None)


def test_a_bare_pod_is_like_a_worker_but_for_what_it_runs() -> None:
    theirs, mine = worker(), bare(worker(), "bare-1", "other")
    container, original = mine["spec"]["containers"][0], theirs["spec"]["containers"][0]
    for key in ("image", "resources", "securityContext", "volumeMounts"):
        assert container[key] == original[key]
    assert mine["spec"]["securityContext"] == theirs["spec"]["securityContext"]
    assert {v["name"] for v in mine["spec"]["volumes"]} == {v["name"] for v in theirs["spec"]["volumes"]}
    claims = [v["persistentVolumeClaim"]["claimName"] for v in mine["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["other"]
    assert "livenessProbe" not in container
    assert "TOKEN_SHA256" not in {e["name"] for e in container["env"]}
    ast.parse(container["command"][-1])
    assert mine["metadata"]["labels"] == {"app": "bare"}, "neither operator nor Service may take it for theirs"


def test_a_bare_claim_has_no_volume_yet() -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "fast",
            "volumeName": "pvc-1", "volumeMode": "Filesystem"}  # fmt: skip
    made = bare_claim({"spec": spec}, "bare-1")["spec"]
    assert set(made) == {"accessModes", "resources", "storageClassName"}


def test_what_runs_in_the_pod_needs_nothing_that_is_not_there() -> None:
    found = set()
    for node in ast.walk(ast.parse(Path(in_pod.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    assert found - set(sys.stdlib_module_names) == {"claude_worker"}


# -- the timeline ------------------------------------------------------------------------------------------------------


def session(conversation: str, *, pod: str = "", endpoint: str = "") -> ClaudeSession:
    return ClaudeSession(
        metadata=Metadata(name=f"conv-{conversation}"),
        spec=SessionSpec(conversation_id=conversation),
        status=SessionStatus(pod_name=pod, endpoint=endpoint),
    )


def pod(name: str, bound: str = "", address: str = "") -> Pod:
    labels = {SESSION_LABEL: f"conv-{bound}"} if bound else {}
    return Pod(metadata=Metadata(name=name, labels=labels), status=PodStatus(pod_ip=address))


def changes(*given: tuple[float, Object]) -> list[Change]:
    return [Change(at, "pod" if isinstance(new, Pod) else "session", new.name, new) for at, new in given]


def test_a_claim_is_seen() -> None:
    told = changes(
        (10.1, session("a")), (10.2, session("b", endpoint="x")), (10.3, pod("p", "b", "1")),
        (10.4, pod("w", "a", "2")), (10.5, session("a", pod="w", endpoint="y")), (10.9, session("a", endpoint="y")),
    )  # fmt: skip
    assert seen(told, "a", 10.0) == pytest.approx({ASKED: 0.1, CLAIMED: 0.4, READY: 0.5})


def test_a_start_is_seen() -> None:
    told = changes(
        (1.0, session("a")), (2.0, pod("w", "a")), (3.0, pod("w", "a")), (4.0, pod("w", "a", "2")),
        (5.0, session("a", endpoint="y")),
    )  # fmt: skip
    assert seen(told, "a", 0.0) == {ASKED: 1.0, STARTED: 2.0, ADDRESS: 4.0, READY: 5.0}


def test_medians_are_of_what_all_rounds_have() -> None:
    rounds = [{READY: 3.0, ASKED: 1.0, CLAIMED: 2.0}, {ASKED: 3.0, READY: 5.0}]
    assert list(medians(rounds).items()) == [(ASKED, 2.0), (READY, 4.0)]
    assert medians([]) == {}
