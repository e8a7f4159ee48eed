"""The hot path: one request from a worker to the model, and the model's bytes back as they come.

Nothing is sent twice: retries are the CLI's. Its own stream is cut when the model's is, so that it sees what it would
have seen without us.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from starlette.types import Receive, Send

from claude_router.client import ClientLeft, ClientWatch
from claude_router.gateway import errors, headers
from claude_router.gateway.body import Body
from claude_router.gateway.budgets import judge, over_ceiling
from claude_router.gateway.callers import Caller
from claude_router.gateway.meter import Meter, Metered
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.named_models import models_in, refuse_ambiguous
from claude_router.gateway.routes import Route
from claude_router.gateway.scan import JsonScanner, Scanner, SseScanner
from claude_router.gateway.teams import Policy
from claude_router.gateway.upstream import Asked, Reply, Upstream
from claude_worker.openai.errors import ApiError

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 900.0
"""The API pings its streams every few seconds, and answers whole within ten minutes."""
_KEEPALIVE_SECONDS = 20.0
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(slots=True)
class Call:
    """One request that was admitted. `headers` as the server gave them: names in lower case."""

    caller: Caller
    policy: Policy
    upstream: Upstream
    route: Route
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: Body
    arrived: float
    metered: Metered | None = None
    scanner: Scanner | None = None
    status: int = 0
    """The model's, once the answer has begun to go out."""


class Relay:
    """Sends requests to the model over one pool of connections. Made and closed on the event loop that uses it."""

    def __init__(self, meter: Meter, metrics: GatewayMetrics, *, ceiling_percent: int = 0) -> None:
        """`ceiling_percent` of a budget: above that, even a running turn gets no more; 0: never."""
        self._meter = meter
        self._metrics = metrics
        self._ceiling = ceiling_percent
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """Close every connection to the model."""
        await self._http.close()

    async def run(self, call: Call, receive: Receive, send: Send) -> None:
        """Answer the request. Raises ApiError if nothing has gone out yet, and ClientLeft.

        When it returns without having ended the answer, the worker's connection is to be cut.
        """
        try:
            first = await call.body.piece() if call.route.has_body else b""
            watch = ClientWatch(receive)
            if call.route.has_body and not call.body.complete:
                # The body is read while it is sent, so the worker cannot be watched by reading as well.
                response = await self._ask(call, call.body.pieces(lambda whole: self._admit(call, whole), first))
                async with watch if call.body.complete else contextlib.nullcontext():
                    await self._finish(call, response, send)
            else:
                if call.route.has_body:
                    self._admit(call, first)
                async with watch:
                    await self._finish(call, await self._ask(call, first), send)
            if watch.left:
                raise ClientLeft
        finally:
            if call.metered is not None:
                call.metered.end(call.status, call.scanner, whole=False)

    def _admit(self, call: Call, whole: bytes) -> None:
        """The whole body is here: may it go? Raises ApiError."""
        models = models_in(whole)
        if call.policy.models is not None:
            refuse_ambiguous(whole)
            for model in models:
                if not call.policy.permits(model):
                    raise errors.model_not_allowed(model, call.caller.team)
        if call.route.metered:
            self._refuse_over_ceiling(call)
            call.metered = self._meter.begin(call.caller, models[0], len(whole))
        self._metrics.before.observe(time.perf_counter() - call.arrived)

    def _refuse_over_ceiling(self, call: Call) -> None:
        budget = call.policy.budget
        if not (self._ceiling and budget):
            return
        now = self._meter.budget_time()
        judged = judge(0.0, budget, now)
        spent = self._meter.spending.since(call.caller.team, judged.start).cost_usd
        if over_ceiling(spent, budget, self._ceiling):
            raise errors.over_ceiling(call.caller.team, judged.resets, now)

    async def _finish(self, call: Call, response: Reply, send: Send) -> None:
        try:
            await self._pass_on(call, response, send)
        except _FAILURES as error:
            log.warning("the model's answer broke off", extra={"fields": _fields(call, error)})
        finally:
            response.close()  # after a complete answer this does nothing; else the model sees at once that we left

    async def _ask(self, call: Call, data: bytes | AsyncIterator[bytes]) -> Reply:
        """Status and headers. Raises ApiError."""
        length = call.body.known_length if call.route.has_body else None
        asked = Asked(call.route, call.query, call.headers, length)
        try:
            return await call.upstream.ask(self._http, asked, data)
        except ApiError:
            if call.metered is not None:
                call.metered.unsent = True
            raise
        except _FAILURES as error:
            if call.body.failure is not None:  # not the model's: it was raised while the body was on its way
                raise call.body.failure from error
            if call.metered is not None:
                call.metered.unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            log.warning("no answer of the model", extra={"fields": _fields(call, error)})
            raise errors.unreachable() from error

    async def _pass_on(self, call: Call, response: Reply, send: Send) -> None:
        metered = call.metered
        passed, kind = headers.back(response.raw_headers, metered.id if metered else "")
        scanner = call.scanner = _scanner_for(call, response, kind)
        call.status = response.status
        await send({"type": "http.response.start", "status": response.status, "headers": passed})
        content = response.content
        while True:
            chunk = await content.readany()
            if content.at_eof():
                break
            if scanner is not None:
                scanner.feed(chunk)
                if scanner.complete and metered is not None:
                    metered.end(response.status, scanner)
            if metered is not None and metered.unsettled:
                await metered.settled()  # before the worker can know that it has begun, or is over
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if scanner is not None:
            scanner.feed(chunk)
            scanner.end()
        if metered is not None:
            metered.end(response.status, scanner)
            await metered.settled()
        await send({"type": "http.response.body", "body": chunk, "more_body": False})


def _scanner_for(call: Call, response: Reply, kind: str) -> Scanner | None:
    if call.metered is None or response.status != 200:
        return None
    return SseScanner() if kind == "text/event-stream" else JsonScanner()


def _fields(call: Call, error: BaseException) -> dict[str, str]:
    """For the log. Of an error only its type: its text may hold an address with a credential in it."""
    return {"session": call.caller.session, "team": call.caller.team, "reason": type(error).__name__}
