"""Routers over the fake API server, and an operator that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from claude_crds.api import Api
from claude_crds.resources import POOLS, SESSIONS
from claude_crds.tokens import worker_token
from claude_router.cluster.sessions import KubernetesSessions, Pace
from claude_router.sessions import ConversationKey, Lease
from crds.fake_api import PATIENCE, FakeApi, Json

KIND = SESSIONS.path("ns")
POOL_KIND = POOLS.path("ns")
KEY = b"k" * 32
FAST = Pace(start=0.2, grace=5.0, suspect=0.1)


def key(conversation: str) -> ConversationKey:
    return ConversationKey("default", conversation)


def session(conversation: str, phase: str = "", *, pod: str = "pod-1", **more: Any) -> Json:
    """A ClaudeSession; with a phase, its status answers generation 1."""
    status = {"phase": phase, "observedGeneration": 1} if phase else {}
    if phase == "Ready":
        status |= {"podName": pod, "endpoint": f"http://{pod}:8080"}
    spec = {"conversationID": conversation, "tenant": "default", "poolRef": {"name": "default"}}
    body = {"metadata": {"name": key(conversation).name}, "spec": {**spec, "desiredState": "Running", **more}}
    return {**body, "status": status} if status else body


@dataclass
class World:
    """The API server, and what the operator would write there."""

    fake: FakeApi
    automatic: Callable[[Json], dict[str, Any] | None] | None = None
    """The status that answers an open ask; None: not yet."""
    pods: int = 0

    def add(self, *sessions: Json) -> None:
        for body in sessions:
            self.fake.put(KIND, body)

    def object(self, conversation: str) -> Json:
        found: Json = self.fake._objects[KIND][key(conversation).name]
        return found

    def has(self, conversation: str) -> bool:
        return key(conversation).name in self.fake.names(KIND)

    def write(self, conversation: str, phase: str, **status: Any) -> None:
        """The status that answers the session as it is now."""
        body = self.object(conversation)
        status = {"observedGeneration": body["metadata"]["generation"], "phase": phase, **status}
        self.fake.put(KIND, {**body, "status": status})

    def ready(self, conversation: str, pod: str = "pod-1") -> None:
        self.write(conversation, "Ready", podName=pod, endpoint=f"http://{pod}:8080")

    def leave(self, conversation: str) -> None:
        """Deleted, but not yet gone."""
        body = self.object(conversation)
        meta = {**body["metadata"], "deletionTimestamp": "2030-01-31T12:00:00Z"}
        self.fake.put(KIND, {**body, "metadata": meta})

    def pool(self, spec: Json | None = None, **status: Any) -> None:
        self.fake.put(POOL_KIND, {"metadata": {"name": "default"}, "spec": spec or {}, "status": status})

    def sent(self, method: str) -> list[str]:
        """Paths of the requests with this method."""
        return [r.path for r in self.fake.requests if r.method == method]

    async def until(self, true: Callable[[], bool]) -> None:
        await self.fake.until(true)

    async def created(self, conversation: str) -> None:
        await self.until(lambda: self.has(conversation))

    async def asked(self, conversation: str, generation: int) -> None:
        await self.until(lambda: bool(self.object(conversation)["metadata"]["generation"] >= generation))

    async def operate(self) -> None:
        """Make every open ask Ready, with a pod of its own."""
        while True:
            with contextlib.suppress(TimeoutError):
                await self.fake.until(lambda: bool(self._open()))
            for body in self._open():
                self.pods += 1
                self.ready(body["spec"]["conversationID"], f"pod-{self.pods}")

    def _open(self) -> list[Json]:
        return [
            o
            for o in self.fake._objects.get(KIND, {}).values()
            if o["spec"].get("desiredState") == "Running"
            and o["metadata"]["generation"] != o.get("status", {}).get("observedGeneration")
            and o.get("status", {}).get("phase") != "Ready"
        ]


@dataclass
class Router:
    """Sessions under test."""

    sessions: KubernetesSessions

    async def acquire(self, conversation: str, wait: float = PATIENCE) -> Lease:
        deadline = asyncio.get_running_loop().time() + wait
        return await self.sessions.acquire(key(conversation), deadline=deadline)

    def waits(self, conversation: str, wait: float = PATIENCE) -> asyncio.Task[Lease]:
        """A request that waits."""
        return asyncio.create_task(self.acquire(conversation, wait))

    async def knows(self, conversation: str, true: Callable[[Any], bool]) -> None:
        """Return when its copy of the session is like that."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        await self.sessions.sessions.wait_for(key(conversation).name, true, deadline=deadline)

    async def pool_knows(self, true: Callable[[Any], bool]) -> None:
        """Return when its copy of the pool is like that."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        await self.sessions.pools.wait_for("default", true, deadline=deadline)

    async def sees(self, conversation: str, phase: str) -> None:
        await self.knows(conversation, lambda s: s is not None and s.status.phase == phase)


def fast(failures: int) -> float:
    """Attempts without much pause, so that a test need not wait for them."""
    return 0.01


@contextlib.asynccontextmanager
async def router(fake: FakeApi, *, pace: Pace = FAST, synced: bool = True, **options: Any) -> AsyncIterator[Router]:
    """A router that follows the fake. Its reflectors try again at once."""
    async with Api(fake.loader) as api:
        sessions = KubernetesSessions(api, "ns", "default", KEY, pace=pace, **{"backoff": fast, **options})
        for reflector in (sessions.sessions, sessions.pools):
            reflector._backoff = fast
        sessions.begin()
        try:
            if synced:
                async with asyncio.timeout(PATIENCE):
                    await sessions.sessions.wait_synced()
                    await sessions.pools.wait_synced()
                await fake.watched(2)
            yield Router(sessions)
        finally:
            await sessions.close()


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[tuple[World, Router]]:
    """One router over a fake API server."""
    async with FakeApi() as fake, router(fake, **options) as made:
        yield World(fake), made


@contextlib.asynccontextmanager
async def operated(w: World) -> AsyncIterator[None]:
    """An operator that has room for everyone."""
    task = asyncio.create_task(w.operate())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def token(pod: str) -> str:
    return worker_token(KEY, "ns", pod)


def kubeconfig(server: str) -> str:
    """A kubeconfig for it (JSON is YAML)."""
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}],
    })  # fmt: skip
