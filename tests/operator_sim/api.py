"""The fake API server, with what a cluster adds to it: graceful deletion, owner garbage collection, claim protection.

Also: a hook at each write, and clients that are dead. Whatever changes is told at once to whoever listens.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from claude_crds.resources import CLAIMS, PODS, POOLS, SESSIONS, TEAMS, timestamp
from crds.fake_api import PATH, FakeApi, Json, Watcher, _changed, _error

NAMESPACE = "ns"
PATHS = {kind.kind: kind.path(NAMESPACE) for kind in (SESSIONS, POOLS, TEAMS, PODS, CLAIMS)}
SESSION, POOL, TEAM = (PATHS[k] for k in ("ClaudeSession", "ClaudePool", "ClaudeTeam"))
POD, CLAIM = (PATHS[k] for k in ("Pod", "PersistentVolumeClaim"))
_OPERATOR = re.compile(r"operator-\d+")
_MOST_REMEMBERED = 2000

Listener = Callable[[str, str, Json], None]
"""Called with (ADDED, MODIFIED or DELETED; path of the kind; the object)."""


def claims_of(pod: Json) -> list[str]:
    """Names of the claims that a pod mounts."""
    sources = [v.get("persistentVolumeClaim") for v in pod.get("spec", {}).get("volumes", [])]
    return [s["claimName"] for s in sources if s]


class SimApi(FakeApi):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Listener] = []
        self._lines: dict[int, bytes] = {}
        self.dead: set[str] = set()
        """User agents whose requests get no answer any more, and do nothing."""
        self.writes = 0
        """Writes by operators so far, without Events and pools."""
        self.at_write: Callable[[int, str], None] | None = None
        """Called with the number of the write and "before" or "after"; it may make its sender one of the dead."""
        self.gate: Callable[[str, str], Awaitable[None]] | None = None
        """Awaited with method and path before a request is looked at."""
        self.lag: Callable[[str], float] = lambda agent: 0.0
        """Seconds by which what a client's watch brings is late."""
        self.events: deque[Json] = deque(maxlen=1000)
        """The Events that were written; they are no objects here."""
        self.refuse: Callable[[web.Request], web.Response | None] = lambda request: None

    # -- objects -------------------------------------------------------------------------------------------------

    def all(self, kind: str) -> list[Json]:
        return list(self._objects.get(kind, {}).values())

    def get(self, kind: str, name: str) -> Json | None:
        return self._objects.get(kind, {}).get(name)

    def put(self, kind: str, body: Json) -> Json:
        if body["metadata"]["name"] not in self._objects.get(kind, {}):
            created = timestamp(time.time())
            body = {**body, "metadata": {"creationTimestamp": created, "namespace": NAMESPACE, **body["metadata"]}}
        return super().put(kind, body)

    def patch(self, kind: str, name: str, **parts: Any) -> None:
        """Set whole parts of an object, such as `status`, as their owner would; nothing if it is not there."""
        if old := self.get(kind, name):
            self.put(kind, {**old, **parts})

    def begin_deletion(self, kind: str, name: str) -> Json | None:
        """As a DELETE: pods and claims stay until nothing holds them."""
        old = self.get(kind, name)
        if old is None or old["metadata"].get("deletionTimestamp"):
            return old
        held = kind == POD or (kind == CLAIM and any(name in claims_of(p) for p in self.all(POD)))
        if not held:
            return self.remove(kind, name)
        return self.put(kind, {**old, "metadata": {**old["metadata"], "deletionTimestamp": timestamp(time.time())}})

    def _record(self, change: str, kind: str, body: Json) -> None:
        # Not a copy: nothing here changes an object in place. And said once, whoever listens.
        self._log.append((self.version, change, kind, body))
        self._lines[self.version] = msgspec.json.encode({"type": change, "object": body}) + b"\n"
        self._ring()
        if len(self._log) > 2 * _MOST_REMEMBERED:
            for version, *_ in self._log[:-_MOST_REMEMBERED]:
                del self._lines[version]
            del self._log[:-_MOST_REMEMBERED]
            self.compacted = max(self.compacted, self._log[0][0])
        for listener in tuple(self.listeners):
            listener(change, kind, body)
        asyncio.get_running_loop().call_soon(self._collect, change, kind, body)

    def _collect(self, change: str, kind: str, body: Json) -> None:
        """The garbage collector, and the release of protected claims."""
        if change == "DELETED":
            if kind == POD:
                for name in claims_of(body):
                    claim = self.get(CLAIM, name)
                    if claim and claim["metadata"].get("deletionTimestamp") and not self._used(name):
                        self.remove(CLAIM, name)
            for dependants in (POD, CLAIM):
                for found in self.all(dependants):
                    if any(o["uid"] == body["metadata"]["uid"] for o in found["metadata"].get("ownerReferences", [])):
                        self.begin_deletion(dependants, found["metadata"]["name"])
            return
        owners = body["metadata"].get("ownerReferences", [])
        present: Json | None = self.get(kind, body["metadata"]["name"])
        if owners and present and present["metadata"]["uid"] == body["metadata"]["uid"]:
            owners = present["metadata"].get("ownerReferences", [])
            there = [o for o in owners if (owner := self.get(PATHS[o["kind"]], o["name"])) and _uid(owner) == o["uid"]]
            if not there:
                self.begin_deletion(kind, body["metadata"]["name"])

    def _used(self, claim: str) -> bool:
        return any(claim in claims_of(pod) for pod in self.all(POD))

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.clear()
        agent = request.headers.get("User-Agent", "")
        path = PATH.fullmatch(request.path)
        if self.gate:
            await self.gate(request.method, request.path)
        if agent in self.dead:
            return _aborted(request)
        if request.method == "POST" and request.path.endswith("/events"):
            self.events.append(await request.json())
            self._changed.set()
            return web.json_response({}, status=201)
        # A pool's status, or a team's, is for people: nothing follows from it.
        counted = (
            request.method != "GET" and bool(_OPERATOR.fullmatch(agent)) and not request.path.startswith((POOL, TEAM))
        )
        if counted:
            self.writes += 1
            self._hook(self.writes, "before")
            if agent in self.dead:
                return _aborted(request)
        number = self.writes
        answer = self.refuse(request) or await self._delete(request, path) or await super()._handle(request)
        if counted:
            self._hook(number, "after")
        return _aborted(request) if agent in self.dead else answer

    def _hook(self, number: int, when: str) -> None:
        if self.at_write:
            self.at_write(number, when)

    async def _delete(self, request: web.Request, path: re.Match[str] | None) -> web.Response | None:
        if request.method != "DELETE" or path is None or path.group(1) not in (POD, CLAIM):
            return None
        kind, name, _ = path.groups()
        options = await request.json() if request.can_read_body else {}
        old = self.get(kind, name)
        if old is None:
            return _error(404, "NotFound", f'"{name}" not found')
        problem = _changed(old, options.get("preconditions", {}), "uid", "resourceVersion")
        return problem or web.json_response(self.begin_deletion(kind, name))

    async def _send(self, watcher: Watcher) -> None:
        """As the fake's, without its pause inside a line, and without a look at what was sent long ago."""
        if watcher.hung or watcher.response is None:
            return
        if watcher.request and (late := self.lag(watcher.request.headers["User-Agent"])):
            await asyncio.sleep(late)
        fresh = []
        for version, _, kind, _ in reversed(self._log):
            if version <= watcher.sent:
                break
            if kind == watcher.kind:
                fresh.append(self._lines[version])
        watcher.sent = self.version
        lines = b"".join(reversed(fresh))
        if lines:
            await watcher.response.write(lines)


def _uid(body: Json) -> str:
    return str(body["metadata"]["uid"])


def _aborted(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response(status=503)
