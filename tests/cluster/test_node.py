"""The cluster of `make cluster`: what the product's tests stand on works, and `down` leaves nothing.

A cluster that was up before is used as it is, and left up.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.node import bare, control, host, tools
from cluster.node.__main__ import NO_PROVIDER, current
from local.harness import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
PATHS = (
    *("/etc/cni", "/etc/containerd", "/opt/containerd", "/usr/libexec/kubernetes", "/run/containerd", "/run/netns"),
    *("/run/node", "/run/xtables.lock", "/var/lib/cni", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet"),
    *("/var/log/containers", "/var/log/pods"),
)
"""Where a node's parts write by default."""
ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]

SAFE = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    "automountServiceAccountToken": False,
    "terminationGracePeriodSeconds": 0,
}
SAFE_CONTAINER = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
}


def verb(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "cluster.node", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=3000, check=False)


def host_state() -> Json:
    """What a node could leave on its host."""
    cgroups = Path("/sys/fs/cgroup")
    nft = shutil.which("nft")
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "processes": of_the_node(),
        "run folder": bare.run_folder().exists(),
        "mounts": [line for line in mounts if str(bare.run_folder()) in line or "netns" in line],
        "links": sorted(os.listdir("/sys/class/net")),
        "routes": subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout,
        "tables": subprocess.run([nft, "list", "tables"], check=True, capture_output=True, text=True).stdout
        if nft
        else "",
        "cgroups": sorted(str(path) for path in cgroups.rglob("*claude-code-api*") if path.is_dir()),
        "settings": {name: Path("/proc/sys", name).read_text() for name in (*host.KUBELET_SETS, *host.WE_SET)},
        "paths": [path for path in PATHS if Path(path).exists()],
    }


def of_the_node() -> list[str]:
    """Command lines of processes that run the node's programs, its process 1 or a sandbox's shim."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in line for mark in ("/run/node/", "cluster.node.init", "containerd-shim-runc-v2")):
            found.append(line)
    return found


@dataclass
class Cluster:
    """A running cluster, and whether this module booted it."""

    kubeconfig: str
    image: str
    bare: bool
    ours: bool
    before: Json
    """What the host was like before it was booted."""
    folder: Path
    namespace: str = "node-test"

    def kubectl(self, *arguments: str, given: Json | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(tools.find("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        text = None if given is None else json.dumps(given)
        env = os.environ | {"KUBECACHEDIR": str(self.folder)}
        return subprocess.run([*command, *arguments], input=text, env=env, capture_output=True, text=True, timeout=180)

    def get(self, *arguments: str) -> str:
        """What kubectl prints; it must succeed."""
        done = self.kubectl(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def apply(self, *objects: Json, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self.kubectl("apply", "--filename=-", *options, given=items)

    def pod(self, name: str, command: list[str], **more: Any) -> Json:
        container = {"name": "main", "image": self.image, "command": command, **SAFE_CONTAINER, **more}
        volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}] if "volumeMounts" in more else []
        metadata = {"name": name, "labels": {"app": name}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**SAFE, "containers": [container], "volumes": volumes},
        }

    def server(self) -> Json:
        """A pod that serves its volume over HTTP."""
        probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
        mounts = [{"name": "data", "mountPath": "/data"}]
        return self.pod("web", ["httpd", "-f", "-p", "8080", "-h", "/data"], readinessProbe=probe, volumeMounts=mounts)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ours = current() is None
    before = host_state()
    up = verb("up")
    if up.returncode == NO_PROVIDER and not os.environ.get("CI"):
        pytest.skip(up.stderr)
    assert up.returncode == 0, up.stderr
    provider = current()
    assert provider
    image = "localhost/busybox:1" if provider is bare else "docker.io/library/busybox:1.37"
    made = Cluster(up.stdout.strip(), image, provider is bare, ours, before, tmp_path_factory.mktemp("kubectl"))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": made.namespace, "labels": labels},
    }
    try:
        assert made.apply(namespace).returncode == 0
        made.get("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        yield made
    finally:
        if ours:
            assert verb("down").returncode == 0
        else:
            made.kubectl("delete", "namespace", made.namespace)


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Cluster:
    """With a server on a volume behind a service, and a client pod."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 8080}]},
    }
    client = cluster.pod("client", ["sh", "-c", "echo started; exec sleep 3600"])
    applied = cluster.apply(claim, service, cluster.server(), client)
    assert applied.returncode == 0, applied.stderr
    cluster.get("wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=120s")
    cluster.get("exec", "web", "--", "sh", "-c", "echo kept > /data/page.txt")
    return cluster


def test_up_again_is_the_same_cluster(cluster: Cluster) -> None:
    before = cluster.get("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")
    again = verb("up")
    assert (again.returncode, again.stdout.strip(), again.stderr) == (0, cluster.kubeconfig, "")
    assert verb("kubeconfig").stdout.strip() == cluster.kubeconfig
    assert cluster.get("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}") == before


def test_a_pod_reaches_another_by_the_name_of_its_service(served: Cluster) -> None:
    address = served.get("get", "service", "web", "--output=jsonpath={.spec.clusterIP}")
    looked_up = served.get("exec", "client", "--", "nslookup", "web.node-test.svc.cluster.local")
    assert f"Address: {address}" in looked_up.splitlines()
    for pod in ("client", "web"):  # `web` reaches itself by way of the service
        assert served.get("exec", pod, "--", "wget", "-q", "-O-", "http://web:8080/page.txt") == "kept"


def test_the_host_reaches_services_by_node_port_and_pods_of_a_bare_node_directly(served: Cluster) -> None:
    node = served.get("get", "nodes", "--output=jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}")
    port = served.get("get", "service", "web", "--output=jsonpath={.spec.ports[0].nodePort}")
    urls = [f"http://{node}:{port}"]
    if served.bare:
        service = served.get("get", "service", "web", "--output=jsonpath={.spec.clusterIP}")
        pod = served.get("get", "pod", "web", "--output=jsonpath={.status.podIP}")
        urls += [f"http://{service}:8080", f"http://{pod}:8080"]
    with httpx.Client(trust_env=False, timeout=10) as client:
        assert [client.get(f"{url}/page.txt").text for url in urls] == ["kept\n"] * len(urls)


def test_a_volume_outlives_its_pod(served: Cluster) -> None:
    first = served.get("get", "pod", "web", "--output=jsonpath={.metadata.uid}")
    served.get("delete", "pod", "web")
    assert served.apply(served.server()).returncode == 0
    served.get("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    assert served.get("get", "pod", "web", "--output=jsonpath={.metadata.uid}") != first
    assert served.get("exec", "web", "--", "cat", "/data/page.txt") == "kept"


def test_logs_are_there(served: Cluster) -> None:
    assert served.get("logs", "client") == "started"


def test_an_image_is_built_and_runs(cluster: Cluster, tmp_path: Path) -> None:
    if os.environ.get("CLUSTER_KUBECONFIG") and not os.environ.get("CLUSTER_REGISTRY"):
        pytest.skip("images for a cluster of one's own go to CLUSTER_REGISTRY, which is not set")
    name = f"{os.environ.get('CLUSTER_REGISTRY') or 'localhost'}/claude-code-api-node-test:dev"
    (tmp_path / "Dockerfile").write_text("FROM debian:trixie-slim\nRUN echo made > /made\n")
    made = verb("image", name, str(tmp_path / "Dockerfile"), str(tmp_path))
    assert (made.returncode, made.stdout.strip()) == (0, name), made.stderr
    pod = cluster.pod("made", ["cat", "/made"])
    pod["spec"]["containers"][0]["image"] = name
    pod["spec"]["restartPolicy"] = "Never"
    assert cluster.apply(pod).returncode == 0
    cluster.get("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/made", "--timeout=120s")
    assert cluster.get("logs", "made") == "made"
    assert "loaded" not in verb("load", name).stderr, "what is there is not loaded again"
    if cluster.bare:
        subprocess.run(["buildah", "rmi", name], check=True, capture_output=True)


def test_pods_are_held_to_their_namespace_s_security_standard(cluster: Cluster) -> None:
    pod = cluster.pod("unsafe", ["sleep", "1"])
    pod["spec"]["hostNetwork"] = True
    refused = cluster.apply(pod, options=("--dry-run=server",))
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_quotas_hold(cluster: Cluster) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"persistentvolumeclaims": "0"}},
    }
    assert cluster.apply(quota).returncode == 0
    cluster.get("wait", "--for=jsonpath={.status.hard.persistentvolumeclaims}=0", "quota/none", "--timeout=60s")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "one-too-many"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    refused = cluster.apply(claim)
    cluster.get("delete", "quota", "none")
    assert refused.returncode != 0
    assert "exceeded quota: none" in refused.stderr


def test_parts_of_a_bare_node_stop_and_start(served: Cluster) -> None:
    if not served.bare:
        pytest.skip("only a bare node's parts are ours to stop")
    assert verb("kill", "kube-apiserver").returncode == 0
    assert served.kubectl("get", "nodes").returncode != 0
    assert not bare.runs()
    for part in ("kube-apiserver", "containerd", "kubelet"):
        assert verb("stop", part).returncode == 0
        assert verb("start", part).returncode == 0
    read = ("exec", "web", "--", "cat", "/data/page.txt")
    # Once the kubelet has its pods again; the pod itself ran on all the time.
    assert eventually(lambda: served.kubectl(*read).stdout == "kept\n", seconds=60)
    assert served.get("get", "pod", "web", "--output=jsonpath={.status.containerStatuses[0].restartCount}") == "0"


def test_a_crashed_node_is_replaced_and_down_leaves_nothing(served: Cluster) -> None:
    if not (served.bare and served.ours):
        pytest.skip("the cluster was there before, or is not a bare node")
    assert host_state() != served.before
    assert control.end(bare.run_folder())
    assert verb("kubeconfig").returncode == 1

    up = verb("up")
    assert up.returncode == 0, up.stderr
    assert "kube0" in os.listdir("/sys/class/net")
    assert served.kubectl("get", "namespace", served.namespace).returncode != 0, "a new node is an empty one"

    assert verb("down").returncode == 0
    assert host_state() == served.before
    assert verb("down").returncode == 0, "once more is no error"
