"""The operator over HTTP: liveness that proves progress, readiness, metrics."""

from __future__ import annotations

import time

from aiohttp import web

from claude_operator.lease import Leadership
from claude_operator.metrics import OperatorMetrics
from claude_operator.term import Term

_LONGEST_SECONDS = 60.0


class Health:
    """`term` is the present term of leadership, if this replica leads."""

    def __init__(self, leadership: Leadership, metrics: OperatorMetrics) -> None:
        self._leadership = leadership
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.term: Term | None = None

    async def begin(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        app = web.Application()
        app.add_routes([
            web.get("/healthz", self._alive), web.get("/readyz", self._ready), web.get("/metrics", self._numbers),
        ])  # fmt: skip
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def problem(self) -> str:
        """Why a restart would help; empty while it would not. That the API server is away is no reason."""
        waited = time.monotonic() - self._leadership.tried_at
        if waited > _LONGEST_SECONDS:
            return f"the lease was last looked at {waited:.0f} s ago"
        return self.term.problem() if self.term is not None else ""

    def unready(self) -> str:
        """Why this replica could not take over, or does not do its work."""
        if self._leadership.problem:
            return self._leadership.problem
        if self.term is not None:
            return next((r.problem for r in self.term.world.reflectors if r.problem), "")
        return ""

    async def _alive(self, _: web.Request) -> web.Response:
        return _answer(self.problem())

    async def _ready(self, _: web.Request) -> web.Response:
        return _answer(self.unready())

    async def _numbers(self, _: web.Request) -> web.Response:
        self._metrics.leader.set(self._leadership.leading)
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _answer(problem: str) -> web.Response:
    return web.json_response({"status": problem or "ok"}, status=503 if problem else 200)
