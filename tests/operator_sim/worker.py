"""Fake workers: a real HTTP server on the pod's own loopback address, with the worker's contract and its troubles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from claude_crds.resources import WORKER_PORT
from claude_crds.tokens import token_hash

_HEARTBEAT_SECONDS = 10.0
_STEPS = 5
"""Of the event loop, until what was accepted or aborted is known."""


@dataclass(eq=False)
class Volume:
    """What outlives a worker."""

    claim: str
    turns: int = 0
    conversation: str = ""
    last_active: float = 0.0
    ran: list[str] = field(default_factory=list)
    """Ids of the turns that began on it, in order."""


@dataclass(eq=False)
class Worker:
    """`changed` is called at every change. The test sets `holding` to have turns run until `release`."""

    pod: str
    address: str
    token_sha: str
    """Empty: of an earlier key, so that nobody's token fits."""
    volume: Volume
    changed: Callable[[], None]
    phase: str = ""
    error: str | None = None
    problem: str | None = None
    busy: int = 0
    holding: bool = False
    silent: bool = False
    """Takes no status request any more, as if it hung."""
    drains: int = 0
    lag: Callable[[], float] = lambda: 0.0
    """Seconds that a request to drain is on its way."""
    refusals: int = 0
    """Turns that came too late."""
    busy_refusals: int = 0
    """Drains that came too late."""
    odd: list[str] = field(default_factory=list)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None
    _listening: list[socket.socket] = field(default_factory=list)
    _stopping: asyncio.Task[None] | None = None
    _streams: list[web.Request] = field(default_factory=list)

    async def start(self) -> None:
        """Listen."""
        self.phase = "bound" if self.volume.turns else "warm"
        app = web.Application()
        app.add_routes([
            web.get("/status", self._status), web.post("/drain", self._drain),
            web.post("/v1/chat/completions", self._turn),
        ])  # fmt: skip
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.05)
        await self._runner.setup()
        listening = socket.create_server((self.address, WORKER_PORT), backlog=128)
        listening.setblocking(False)
        self._listening = [listening]
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """Its process ends: every connection is closed. Comes to its end even if the caller does not wait for it."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        if self._runner is None:
            return
        self.cut()
        self._released.set()
        runner, self._runner = self._runner, None
        assert runner.server is not None
        # First it accepts nothing more: asyncio leaves a socket open that it accepts in the step in which it closes.
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
        for _ in range(_STEPS):
            await asyncio.sleep(0)
        for site in tuple(runner.sites):
            await site.stop()
        # Before aiohttp does it: where a handler ends just as it stops to wait for it, it leaves the socket open.
        for handler in runner.server.connections:
            if handler.transport:
                handler.transport.abort()
        for _ in range(_STEPS):
            await asyncio.sleep(0)
        await runner.cleanup()

    def cut(self) -> None:
        """Break the status streams, not the worker."""
        for request in tuple(self._streams):
            if request.transport:
                request.transport.abort()

    def set(self, **values: Any) -> None:
        """Have something be different, and say so."""
        for name, value in values.items():
            setattr(self, name, value)
        self._tell()

    def release(self) -> None:
        """Turns that run come to their end."""
        self.holding = False
        self._released.set()

    def _tell(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()
        self.changed()

    def view(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "busy": self.busy > 0,
            "last_active": self.volume.last_active,
            "turns": self.volume.turns,
            "usage": {"input_tokens": 10 * self.volume.turns, "output_tokens": self.volume.turns, "cost_usd": 0.0},
            "claude_session_id": f"claude-{self.volume.claim}" if self.volume.turns else None,
            "error": self.error,
            "problem": self.problem,
        }

    def _allowed(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer" and token_hash(token) == self.token_sha:
            return True
        if self.token_sha:
            self.odd.append(f"{request.path} of {self.pod} was asked with a wrong token")
        return False

    async def _status(self, request: web.Request) -> web.StreamResponse:
        if self.silent or not self._allowed(request):
            return web.Response(status=503 if self.silent else 401)
        response = web.StreamResponse()
        await response.prepare(request)
        self._streams.append(request)
        try:
            while True:
                bell = self._bell
                await response.write(json.dumps(self.view()).encode() + b"\n")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT_SECONDS):
                        await bell.wait()
        except ConnectionError:
            return response
        finally:
            self._streams.remove(request)

    async def _drain(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return web.Response(status=401)
        await asyncio.sleep(self.lag())
        self.drains += 1
        if self.busy:
            self.busy_refusals += 1
            return web.Response(status=409)
        self.set(phase="drained")
        return web.json_response(self.view())

    async def _turn(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return web.Response(status=401)
        body = await request.json()
        if self.phase not in ("warm", "bound"):
            self.refusals += 1
            return web.json_response({}, status=503, headers={"x-claude-turn": "not-started"})
        volume = self.volume
        if volume.conversation not in ("", body["conversation"]):
            self.odd.append(f"{body['conversation']} ran on the volume of {volume.conversation}")
        volume.conversation = body["conversation"]
        volume.ran.append(body["turn"])
        self.set(busy=self.busy + 1, phase="bound")
        if self.holding:
            self._released.clear()
            await self._released.wait()
        else:
            await asyncio.sleep(0)
        ended = self._runner is None
        volume.turns += 1
        volume.last_active = time.time()
        self.set(busy=self.busy - 1)
        if ended and request.transport:
            request.transport.abort()
        return web.json_response({"turn": body["turn"]})
