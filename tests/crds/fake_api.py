"""An API server for tests, on loopback: LIST in pages, WATCH with bookmarks, CRUD by the real one's rules; its ills.

It keeps every kind of every namespace, without any schema. Faults are asked for by method; the rest happens by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import re
import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from claude_crds.access import Access

Json = dict[str, Any]
PATH = re.compile(r"(/apis?(?:/[a-z0-9.-]+)?/v[0-9a-z]+(?:/namespaces/[^/]+)?/[a-z]+)(?:/([^/]+))?(?:/(status))?")
PATIENCE = 10.0
"""Seconds after which a test that waits for an event has failed."""


def status(code: int, reason: str, message: str = "") -> Json:
    """An error as the API server words it."""
    return {"kind": "Status", "status": "Failure", "message": message or reason, "reason": reason, "code": code}


def merge(target: Json, patch: Json) -> Json:
    """RFC 7396."""
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            old = merged.get(key)
            merged[key] = merge(old if isinstance(old, dict) else {}, value)
        else:
            merged[key] = value
    return merged


@dataclass(eq=False)
class Watcher:
    """One open watch: the versions it has still to send are those above `sent`."""

    kind: str
    sent: int
    response: web.StreamResponse | None = None
    request: web.Request | None = None
    ended: bool = False
    hung: bool = False
    bookmark: bool = False
    bell: asyncio.Event = field(default_factory=asyncio.Event)


class FakeApi:
    """`async with FakeApi() as fake:`; then `Api(fake.loader)` talks to it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.version = 100
        self.compacted = 0
        """Versions below this are forgotten: a watch or a continuation from there is answered 410."""
        self.gone_as: Literal["http", "event"] = "http"
        self.hang_watches = False
        self.answers: list[Callable[[web.Request], web.Response]] = []
        """What the next requests get instead of the truth."""
        self.requests: list[web.Request] = []
        self.before_page: Callable[[], None] | None = None
        """Called before each page of a LIST but the first."""
        self.watchers: list[Watcher] = []
        self._objects: dict[str, dict[str, Json]] = {}
        self._log: list[tuple[int, str, str, Json]] = []
        self._lists: dict[tuple[int, str], list[Json]] = {}
        self._changed = asyncio.Event()
        self._port = 0

    async def __aenter__(self) -> FakeApi:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True, ssl_context=self._tls)
        await site.start()
        assert site._server
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """As if the process were killed: nothing is said to anyone. `start` brings it back, its objects kept."""
        self.cut()
        await self._runner.cleanup()

    @property
    def server(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    def loader(self) -> Access:
        return Access(server=self.server, authorization="Bearer first", namespace="ns")

    # --- the objects, as somebody else would change them

    def put(self, kind: str, body: Json) -> Json:
        """Create or replace."""
        objects = self._objects.setdefault(kind, {})
        old = objects.get(body["metadata"]["name"])
        self.version += 1
        meta = {"uid": str(uuid.uuid4()), "generation": 1, **(old["metadata"] if old else {}), **body["metadata"]}
        if old and old.get("spec") != body.get("spec"):
            meta["generation"] = old["metadata"]["generation"] + 1
        new = {**body, "metadata": {**meta, "resourceVersion": str(self.version)}}
        objects[meta["name"]] = new
        self._record("MODIFIED" if old else "ADDED", kind, new)
        return new

    def remove(self, kind: str, name: str) -> Json:
        old = self._objects[kind].pop(name)
        self.version += 1
        self._record("DELETED", kind, merge(old, {"metadata": {"resourceVersion": str(self.version)}}))
        return old

    def names(self, kind: str) -> dict[str, str]:
        """Name → resource version of what is there."""
        objects = self._objects.get(kind, {})
        return {name: o["metadata"]["resourceVersion"] for name, o in objects.items()}

    def _record(self, change: str, kind: str, body: Json) -> None:
        self._log.append((self.version, change, kind, copy.deepcopy(body)))
        self._ring()

    # --- its ills

    def compact(self) -> None:
        """Forget every version but the present one. Watches that are open go on."""
        self.compacted = self.version
        self._lists = {of: snapshot for of, snapshot in self._lists.items() if of[0] >= self.compacted}

    def cut(self) -> None:
        """Break the connection of every watch."""
        for watcher in self.watchers:
            watcher.ended = True
            if watcher.request and watcher.request.transport:
                watcher.request.transport.abort()
        self._ring()

    def end(self) -> None:
        """End every watch in order, all said, as the server does after its timeout."""
        for watcher in self.watchers:
            watcher.ended = True
        self._ring()

    def hang(self) -> None:
        """The watches that are open say nothing any more."""
        for watcher in self.watchers:
            watcher.hung = True

    def bookmark(self) -> None:
        """Tell every watch how far it is."""
        for watcher in self.watchers:
            watcher.bookmark = True
        self._ring()

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when it is true; looked at whenever something happens here."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    async def watched(self, times: int = 1) -> None:
        """Return when so many watches are open."""
        await self.until(lambda: len(self.watchers) >= times)

    def _ring(self) -> None:
        self._changed.set()
        for watcher in self.watchers:
            watcher.bell.set()

    # --- HTTP

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self._changed.set()
        if self.answers:
            return self.answers.pop(0)(request)
        path = PATH.fullmatch(request.path)
        if path is None:
            return _error(404, "NotFound", f"no such path: {request.path}")
        kind, name, sub = path.groups()
        if name is None and request.method == "GET":
            return await self._watch(request, kind) if "watch" in request.query else self._list(request, kind)
        body = await request.json() if request.can_read_body else {}
        if request.method == "POST":
            return self._create(kind, body)
        old = self._objects.get(kind, {}).get(name)
        if old is None:
            return _error(404, "NotFound", f'"{name}" not found')
        if request.method == "GET":
            return web.json_response(old)
        if request.method == "DELETE":
            problem = _changed(old, body.get("preconditions", {}), "uid", "resourceVersion")
            return problem or web.json_response(self.remove(kind, name))
        if problem := _changed(old, body.get("metadata", {}), "resourceVersion"):
            return problem
        if other := _changed(old, body.get("metadata", {}), "uid"):
            return other if sub else _error(422, "Invalid", "metadata.uid: field is immutable")
        # Of a server-side apply there is what callers here need: it merges, too, and conditions by their types.
        assert request.headers["Content-Type"] in ("application/merge-patch+json", "application/apply-patch+yaml")
        half: Json = {"status": body.get("status")} if sub else {k: v for k, v in body.items() if k != "status"}
        if request.content_type == "application/apply-patch+yaml" and "conditions" in (half.get("status") or {}):
            both = [*old.get("status", {}).get("conditions", []), *half["status"]["conditions"]]
            half["status"] = {**half["status"], "conditions": list({c["type"]: c for c in both}.values())}
        new = merge(old, half)
        return web.json_response(old if new == old else self.put(kind, new))

    def _create(self, kind: str, body: Json) -> web.Response:
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{uuid.uuid4().hex[:5]}"
        if name in self._objects.get(kind, {}):
            return _error(409, "AlreadyExists", f'"{name}" already exists')
        body["metadata"]["name"] = name
        return web.json_response(self.put(kind, body), status=201)

    def _list(self, request: web.Request, kind: str) -> web.Response:
        if token := request.query.get("continue"):
            if self.before_page:
                self.before_page()
            at, _, after = token.partition(":")
            if (int(at), kind) not in self._lists:
                return _error(410, "Expired", "The provided continue parameter is too old")
            version = int(at)
            snapshot = [o for o in self._lists[version, kind] if o["metadata"]["name"] > after]
        else:
            objects = self._objects.get(kind, {})
            chosen = [objects[name] for name in sorted(objects) if _selects(request, name)]
            version, snapshot = self.version, copy.deepcopy(chosen)
            self._lists[version, kind] = snapshot
        limit = int(request.query.get("limit", 0)) or len(snapshot)
        page, rest = snapshot[:limit], snapshot[limit:]
        more = f"{version}:{page[-1]['metadata']['name']}" if rest else ""
        return web.json_response({"metadata": {"resourceVersion": str(version), "continue": more}, "items": page})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        assert request.query["allowWatchBookmarks"] == "true"
        assert int(request.query["timeoutSeconds"]) > 0
        start = int(request.query["resourceVersion"])
        if start < self.compacted and self.gone_as == "http":
            return _error(410, "Expired", f"too old resource version: {start} ({self.compacted})")
        response = web.StreamResponse()
        await response.prepare(request)
        if start < self.compacted:
            gone = status(410, "Expired", f"too old resource version: {start} ({self.compacted})")
            await response.write(_line("ERROR", gone))
            return response
        watcher = Watcher(kind, start, response, request, hung=self.hang_watches)
        with self._watching(watcher):
            while True:
                watcher.bell.clear()
                with contextlib.suppress(ConnectionError):
                    await self._send(watcher)
                if watcher.ended:
                    break
                await watcher.bell.wait()
        return response

    @contextlib.contextmanager
    def _watching(self, watcher: Watcher) -> Iterator[None]:
        self.watchers.append(watcher)
        self._changed.set()
        try:
            yield
        finally:
            self.watchers.remove(watcher)
            self._changed.set()

    async def _send(self, watcher: Watcher) -> None:
        if watcher.hung:
            return
        assert watcher.response
        for version, change, kind, body in [entry for entry in self._log if entry[0] > watcher.sent]:
            watcher.sent = version
            assert watcher.request
            if kind == watcher.kind and _selects(watcher.request, body["metadata"]["name"]):
                # In two pieces: a line need not come as a whole.
                line = _line(change, body)
                await watcher.response.write(line[:40])
                await asyncio.sleep(0.001)
                await watcher.response.write(line[40:])
        # Not past what has happened while the above was written.
        if watcher.bookmark and not any(entry[0] > watcher.sent for entry in self._log):
            watcher.bookmark = False
            watcher.sent = self.version
            mark = {"metadata": {"resourceVersion": str(self.version), "creationTimestamp": None}}
            await watcher.response.write(_line("BOOKMARK", mark))


def _selects(request: web.Request, name: str) -> bool:
    """Of field selectors there is the one for a single object."""
    return request.query.get("fieldSelector", "") in ("", f"metadata.name={name}")


def _line(change: str, body: Json) -> bytes:
    return json.dumps({"type": change, "object": body}).encode() + b"\n"


def _error(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(status(code, reason, message), status=code)


def _changed(old: Json, expected: Json, *keys: str) -> web.Response | None:
    for key in keys:
        if key in expected and expected[key] != old["metadata"][key]:
            return _error(409, "Conflict", f"{key}: the object has been modified")
    return None
