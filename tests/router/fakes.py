"""What stands behind the router in its tests: sessions in memory, and workers made of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from claude_router.sessions import ConversationKey, Lease, PoolStats, SessionView, Usage

TOKEN = "lease-token-of-the-worker"
SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
DONE = b"data: [DONE]\n\n"
PATIENCE = 10.0
"""Seconds after which a test that waits for an event has failed."""


def frame(text: str) -> bytes:
    """One SSE frame with a content delta."""
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


@dataclass
class Received:
    """A request as it reached the worker; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


class Exchange:
    """One request at the worker, and the wire to answer on."""

    def __init__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def head(
        self, status: int = 200, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        """Status and headers; chunked unless `length` is given."""
        framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        lines = [f"{name}: {value}" for name, value in {**(SSE if headers is None else headers), **framing}.items()]
        await self.raw("\r\n".join([f"HTTP/1.1 {status} OK", *lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, data: bytes = b"") -> None:
        await self.raw((b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n")

    async def whole(self, status: int, headers: dict[str, str], data: bytes) -> None:
        await self.head(status, headers, length=len(data))
        await self.raw(data)

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def cut(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()

    async def left(self) -> None:
        """Return when the router has closed the connection."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                assert await self._reader.read(1) == b""


Script = Callable[[Exchange], Awaitable[None]]


class FakeWorker:
    """Hands every request it gets to `script`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.received: list[Received] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeWorker:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 26)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while not writer.is_closing():
                request = await _read_request(reader)
                self.received.append(request)
                await self.script(Exchange(request, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Received:
    line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (h.partition(":") for h in rest if h)}
    return Received(line, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


def streams(*chunks: bytes) -> Script:
    """Answers a stream of these chunks, the last one together with the end."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for chunk in chunks[:-1]:
            await exchange.chunk(chunk)
        await exchange.end(chunks[-1])

    return script


def refuses(code: str = "worker_draining") -> Script:
    """Answers that the turn was not started."""

    async def script(exchange: Exchange) -> None:
        error = {"error": {"message": f"refused: {code}", "type": "server_error", "param": None, "code": code}}
        headers = {"content-type": "application/json", "x-claude-turn": "not-started"}
        await exchange.whole(503, headers, json.dumps(error).encode())

    return script


def view(key: ConversationKey, **more: Any) -> SessionView:
    """A suspended conversation."""
    values: dict[str, Any] = {
        "phase": "Suspended", "busy": False, "created": 1.0, "last_active": 2.0, "turns": 3,
        "usage": Usage(10, 20, 5, 0.25), "workspace": "somewhere",
    }  # fmt: skip
    return SessionView(key=key, **{**values, **more})


@dataclass
class FakeSessions:
    """Sessions in memory. `acquire` gives the endpoints in turn (the last one for ever), or raises what is in their
    place; while `gate` is closed it waits there."""

    leases: list[str | Exception] = field(default_factory=list)
    views: dict[str, SessionView] = field(default_factory=dict)
    pool: PoolStats = field(default_factory=lambda: PoolStats(5, 2, 1, 1, 7, 3, "2.1.330"))
    acquired: list[tuple[ConversationKey, float]] = field(default_factory=list)
    given_back: list[tuple[ConversationKey, Lease]] = field(default_factory=list)
    stopped: list[tuple[str, ConversationKey]] = field(default_factory=list)
    tips: list[tuple[ConversationKey, str]] = field(default_factory=list)
    cancelled: int = 0
    crowd: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def add(self, conversation_id: str, tenant: str = "default", **more: Any) -> None:
        key = ConversationKey(tenant, conversation_id)
        self.views[key.name] = view(key, **more)

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        self.acquired.append((key, deadline))
        if not self.gate.is_set():
            self.waiting.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        found = self.leases.pop(0) if len(self.leases) > 1 else self.leases[0]
        if isinstance(found, Exception):
            raise found
        return Lease(key.name, found, TOKEN)

    def gone(self, key: ConversationKey, lease: Lease) -> None:
        self.given_back.append((key, lease))

    def crowded(self, key: ConversationKey) -> bool:
        return self.crowd

    async def list(self, tenant: str | None, *, limit: int, after: str = "") -> Sequence[SessionView]:
        names = [name for name, v in self.views.items() if tenant in (None, v.key.tenant) and name > after]
        return [self.views[name] for name in sorted(names)][:limit]

    def count(self, tenant: str, also: Collection[str] = ()) -> int:
        there = {name for name, v in self.views.items() if v.key.tenant == tenant}
        return len(there | set(also))

    async def get(self, key: ConversationKey) -> SessionView | None:
        return self.views.get(key.name)

    async def suspend(self, key: ConversationKey) -> bool:
        self.stopped.append(("suspend", key))
        return key.name in self.views

    async def purge(self, key: ConversationKey) -> bool:
        self.stopped.append(("purge", key))
        return self.views.pop(key.name, None) is not None

    def note_tip(self, key: ConversationKey, tip: str) -> None:
        self.tips.append((key, tip))

    def find_by_tip(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        """The one that noted the longest of them last."""
        noted = {tip: key for key, tip in self.tips if key.tenant == tenant}
        return next((noted[tip] for tip in reversed(tips) if tip in noted), None)

    async def stats(self) -> PoolStats:
        return self.pool
