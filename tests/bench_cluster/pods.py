"""The floors: bare pods of the worker's image with a worker's settings, and a bare CLI in one of them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.load import Timed
from claude_crds.api import Api
from claude_crds.resources import CLAIMS, PODS, WORKER_PORT
from cluster.node import tools
from cluster.stack import Cluster, Json

PYTHON = "/opt/claude-code-api/bin/python3"
_IN_POD = Path(__file__).with_name("in_pod.py")
_MOST_SECONDS = 120.0
_LONGEST_RUN_SECONDS = 900.0
"""A bare pod may be silent while all the rest is measured."""

_LISTENS = f"""
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = socket.create_server(("", {WORKER_PORT}))
while True:
    server.accept()[0].close()
"""
_KEPT_OF_POD = (
    "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets", "securityContext", "serviceAccountName",
)  # fmt: skip
_KEPT_OF_CONTAINER = ("image", "imagePullPolicy", "resources", "securityContext", "volumeMounts")


def bare(worker: Json, name: str, claim: str) -> Json:
    """A pod like that worker's, on the claim, whose only process opens the port at once. Pure."""
    theirs, container = worker["spec"], worker["spec"]["containers"][0]
    volumes = [v for v in theirs["volumes"] if "persistentVolumeClaim" not in v]
    session = next(v["name"] for v in theirs["volumes"] if "persistentVolumeClaim" in v)
    ours = {
        **{key: container[key] for key in _KEPT_OF_CONTAINER if key in container},
        "name": "bare",
        "command": ["/usr/bin/python3", "-I", "-S", "-c", _LISTENS],
        "env": [e for e in container["env"] if e["name"] != "TOKEN_SHA256"],
    }
    spec = {
        **{key: theirs[key] for key in _KEPT_OF_POD if key in theirs},
        "containers": [ours],
        "volumes": [*volumes, {"name": session, "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {"metadata": {"name": name, "labels": {"app": "bare"}}, "spec": spec}


def bare_claim(theirs: Json, name: str) -> Json:
    """A claim like that one, not yet bound. Pure."""
    kept = {key: theirs["spec"][key] for key in ("accessModes", "resources", "storageClassName")}
    return {"metadata": {"name": name, "labels": {"app": "bare"}}, "spec": kept}


class InPod:
    """`in_pod` in a pod; it does what it is told, and tells how long that took."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, do: str, **more: Any) -> Mapping[str, float]:
        """Raises RuntimeError when it has ended, TimeoutError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        async with asyncio.timeout(_MOST_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"nothing answered {do!r} in the bare pod: see above")
        answer: Mapping[str, float] = json.loads(line)
        return answer

    async def turn(self, prompt: str) -> Timed:
        """A hot turn of its CLI."""
        return _timed(await self.ask("turn", prompt=prompt))

    async def first(self, prompt: str) -> Timed:
        """The first turn of its CLI, with `initialize` before it."""
        return _timed(await self.ask("first", prompt=prompt))


def _timed(answer: Mapping[str, float]) -> Timed:
    return Timed(answer["first"], answer["whole"], 0)


@asynccontextmanager
async def in_pod(cluster: Cluster, pod: str) -> AsyncIterator[InPod]:
    """It runs there until this is left."""
    options = [f"--kubeconfig={cluster.kubeconfig}", f"--namespace={cluster.namespace}"]
    process = await asyncio.create_subprocess_exec(
        str(tools.find("kubectl")), *options, "exec", "-i", pod, "--", PYTHON, "-u", "-c", _IN_POD.read_text(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=sys.stderr,
    )  # fmt: skip
    try:
        yield InPod(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@dataclass
class Bare:
    """Bare pods in a namespace: made like the worker that was seen there."""

    api: Api
    cluster: Cluster
    worker: Json
    claim: Json

    @classmethod
    async def like(cls, api: Api, cluster: Cluster, worker: str) -> Bare:
        """Like that worker pod."""
        pod = await asyncio.to_thread(cluster.get, "pod", worker)
        name = next(v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"]
                    if "persistentVolumeClaim" in v)  # fmt: skip
        return cls(api, cluster, pod, await asyncio.to_thread(cluster.get, "persistentvolumeclaim", name))

    async def make_claim(self) -> str:
        """A new volume's claim; its volume is made for the first pod that uses it."""
        name = f"bare-{uuid.uuid4().hex[:6]}"
        await self.api.create(CLAIMS, self.cluster.namespace, bare_claim(self.claim, name))
        return name

    @asynccontextmanager
    async def pod(self, claim: str) -> AsyncIterator[tuple[str, str, float]]:
        """A new pod on the claim: its name, its address, and when it was seen to have one; gone when this is left."""
        name = f"bare-{uuid.uuid4().hex[:6]}"
        query = {"fieldSelector": f"metadata.name={name}"}
        async with self.api.watch(PODS, self.cluster.namespace, query, silence=_LONGEST_RUN_SECONDS) as lines:
            await self.api.create(PODS, self.cluster.namespace, bare(self.worker, name, claim))
            address = ""
            while not address:
                address = msgspec.json.decode(await lines.readline())["object"]["status"].get("podIP", "")
            yield name, address, time.perf_counter()
            await self.api.delete(PODS, self.cluster.namespace, name, grace_seconds=1)
            while msgspec.json.decode(await lines.readline())["type"] != "DELETED":
                pass

    async def to_port(self, prober: InPod, claim: str = "") -> tuple[float, float]:
        """Seconds from the creation of a pod to its address, and to its open port; without a claim, with a new volume.

        The prober asks from another pod, as the operator would.
        """
        began = time.perf_counter()
        used = claim or await self.make_claim()
        async with self.pod(used) as (_, address, seen):
            await prober.ask("port", host=address, port=WORKER_PORT)
            opened = time.perf_counter()
        if not claim:
            await self.api.delete(CLAIMS, self.cluster.namespace, used)
        return seen - began, opened - began
