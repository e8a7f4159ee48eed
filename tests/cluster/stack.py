"""The product as users have it: the chart, installed in a namespace of its own, and a scripted model in the cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.chart import CHART, provided
from cluster.node import tools
from cluster.node.__main__ import image_name
from cluster.watching import PATIENCE, Watch, watching

RELEASE = "claude-code-api"
Json = dict[str, Any]

_SECURE: Json = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
_LOCKED: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass
class Cluster:
    """kubectl and helm, in one namespace."""

    kubeconfig: Path
    namespace: str

    def run(self, tool: str, *arguments: str, given: str = "", check: bool = True, seconds: float = 300) -> str:
        """Standard output of kubectl or helm."""
        command = [str(tools.find(tool)), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        done = subprocess.run(
            [*command, *arguments], input=given, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0 or not check, f"{tool} {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout if check else done.stdout + done.stderr

    def kubectl(self, *arguments: str, given: str = "", check: bool = True) -> str:
        return self.run("kubectl", *arguments, given=given, check=check)

    def helm(self, *arguments: str) -> str:
        return self.run("helm", *arguments, seconds=600)

    def get(self, *arguments: str) -> Json:
        found: Json = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return found

    def patch(self, kind: str, name: str, patch: Json, *more: str) -> None:
        self.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(patch)}", *more)

    def events(self, name: str) -> list[str]:
        """The reasons of the Events about an object."""
        found = self.get("events", f"--field-selector=involvedObject.name={name}")["items"]
        return [event["reason"] for event in found]

    def node_address(self) -> str:
        addresses = self.get("nodes")["items"][0]["status"]["addresses"]
        return str(next(a["address"] for a in addresses if a["type"] == "InternalIP"))

    def url(self, service: str) -> str:
        """A NodePort service's address, as this machine reaches it."""
        port = self.get("service", service)["spec"]["ports"][0]["nodePort"]
        return f"http://{self.node_address()}:{port}"

    def pods(self, component: str) -> list[Json]:
        """The pods of a part that are not on their way out."""
        found: list[Json] = self.get("pods", f"--selector=app.kubernetes.io/component={component}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """The port of a pod, or of one behind `service/NAME`, through the API server."""
        command = [str(tools.find("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        process = subprocess.Popen(
            [*command, "port-forward", target if "/" in target else f"pod/{target}", f":{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, f"no port-forward: {line}"
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            process.stderr.close()


@dataclass
class Stack:
    """An installed release."""

    cluster: Cluster
    watch: Watch
    url: str
    model_url: str

    def client(self, conversation: str = "", **options: Any) -> httpx.Client:
        headers = {"X-Conversation-ID": conversation} if conversation else {}
        return httpx.Client(base_url=options.pop("base_url", self.url), headers=headers, timeout=120, **options)

    def pool(self, **spec: Any) -> None:
        """Change the default pool."""
        self.cluster.patch("claudepool", "default", {"spec": spec})

    def log(self, after: int = 0) -> list[Json]:
        """What the model was asked."""
        found: list[Json] = httpx.get(f"{self.model_url}/log", params={"after": after}, timeout=30).json()
        return found

    def mark(self) -> int:
        """The number of the model's last request so far."""
        entries = self.log()
        return int(entries[-1]["number"]) if entries else 0

    def forget(self, *conversations: str) -> None:
        """Purge conversations, and wait until nothing is left of them."""
        for name in conversations:
            if session := self.watch.session(name):
                self.cluster.kubectl("delete", "claudesession", session.name, "--wait=false")
        self.watch.until("purged", lambda: not any(self.watch.session(name) for name in conversations))


def values(**more: Any) -> list[str]:
    """`--set` for the images of this tree, the scripted model, and small volumes; `a__b=1` is `a.b=1`."""
    chosen = {
        "anthropic.existingSecret": "anthropic",
        "anthropic.baseURL": "http://model:8000",
        "router.service.type": "NodePort",
        "router.shutdownGraceSeconds": 20,
        "pool.size": 3,
        "pool.workspace.size": "64Mi",
        # What a small node has is for workers.
        **{f"{part}.resources.requests.cpu": "10m" for part in ("router", "operator", "gateway")},
    } | {key.replace("__", "."): value for key, value in more.items()}
    for part in ("router", "operator", "worker"):
        repository, _, tag = image_name(part).rpartition(":")
        chosen |= {f"{part}.image.repository": repository, f"{part}.image.tag": tag}
    return [f"--set={key}={json.dumps(value) if isinstance(value, bool) else value}" for key, value in chosen.items()]


def install(cluster: Cluster, *more: str, **chosen: Any) -> None:
    """`helm upgrade --install`, and wait until it is ready."""
    cluster.helm("upgrade", "--install", RELEASE, str(CHART), "--wait", "--timeout=4m", *values(**chosen), *more)


def model_manifest(*, with_secret: bool = True) -> str:
    """The scripted model, from the router's image."""
    labels = {"app": "model"}
    container = {
        "name": "model",
        "image": image_name("router"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/claude-code-api/bin/python3", "-m", "claude_router.demo", "--host=0.0.0.0", "--port=8000"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
        "securityContext": _LOCKED,
    }
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "securityContext": _SECURE}}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "model"},
        "spec": {"selector": {"matchLabels": labels}, "template": pod},
    }  # fmt: skip
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "model"},
        "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 8000}]},
    }  # fmt: skip
    secret = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "anthropic"},
        "stringData": {"ANTHROPIC_API_KEY": "sk-scripted"},
    }  # fmt: skip
    return yaml.safe_dump_all([deployment, service, *([secret] if with_secret else [])])


@contextmanager
def namespace(*labels: str) -> Iterator[Cluster]:
    """A new namespace, which is deleted afterwards; its Pod Security level is `restricted`."""
    cluster = Cluster(provided(), f"claude-test-{uuid.uuid4().hex[:6]}")
    body = {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": cluster.namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted", **dict(x.split("=") for x in labels)},
        },
    }  # fmt: skip
    cluster.kubectl("apply", "--filename=-", given=json.dumps(body))
    try:
        yield cluster
    finally:
        if not os.environ.get("KEEP_NAMESPACE"):
            cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false", check=False)


@contextmanager
def installed(*more: str, **chosen: Any) -> Iterator[Stack]:
    """The chart in a new namespace, with the model, ready to be used."""
    with namespace() as cluster:
        cluster.kubectl("apply", "--filename=-", given=model_manifest())
        cluster.kubectl("rollout", "status", "deployment/model", f"--timeout={PATIENCE:g}s")
        install(cluster, *more, **chosen)
        with watching(cluster.kubeconfig, cluster.namespace) as watch:
            yield Stack(cluster, watch, cluster.url(RELEASE), cluster.url("model"))


def reasons(stack: Stack, name: str, wanted: Sequence[str]) -> list[str]:
    """The Events about an object, once those wanted are among them: they are written behind what they tell of."""
    found: list[str] = []

    def there() -> bool:
        found[:] = stack.cluster.events(name)
        return set(wanted) <= set(found)

    stack.watch.until(f"Events {wanted} of {name}", there)
    return found
