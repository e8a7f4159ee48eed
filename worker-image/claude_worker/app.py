"""The worker over HTTP: a one-conversation OpenAI server, and what the pool needs to look after it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from claude_worker import metrics
from claude_worker.conversation import Conversation
from claude_worker.guard import Guard
from claude_worker.ledger import Ledger
from claude_worker.openai.chunks import ChunkWriter
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest, parse
from claude_worker.outbox import Outbox
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.transcript import messages
from claude_worker.translate import Translator
from claude_worker.turn import Turn

log = logging.getLogger(__name__)

CLIENT_SESSION = "x-claude-client-session"
"""Set by the router when the conversation id came from a client's own session header."""

_SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class TurnResponse(Response):
    """The answer of one turn, written as the CLI gives it.

    Status and headers leave with the first bytes: a turn that fails before those fails with a real status.
    """

    def __init__(self, conversation: Conversation, request: ChatRequest, keepalive: float, tools: str, client: bool):
        self._conversation = conversation
        self._request = request
        self._keepalive = keepalive
        self._tools = tools
        self._client_session = client
        self._begun = False
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._request
        outbox = Outbox(self._keepalive if request.stream else None)
        writer = ChunkWriter(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), request.model)
        translator = Translator(writer, tool_activity=self._tools, include_usage=request.include_usage)
        turn = Turn(translator, outbox)
        running = asyncio.create_task(self._run(turn))
        leaving = asyncio.create_task(self._watch(receive, outbox))
        try:
            if request.stream:
                await self._stream(outbox, send)
            else:
                await self._whole(turn, send)
        finally:
            leaving.cancel()
            # Cancelling is what interrupts a turn whose client has left; after its end it changes nothing.
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def _run(self, turn: Turn) -> None:
        try:
            await self._conversation.run(self._request, turn, client_session=self._client_session)
        except ApiError as error:
            turn.outbox.close(error)
        except Exception:
            log.exception("a turn failed")
            turn.outbox.close(ApiError(500, "The worker failed; its log says why.", code="internal_error"))

    async def _watch(self, receive: Receive, outbox: Outbox) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        outbox.close()

    async def _stream(self, outbox: Outbox, send: Send) -> None:
        while data := await outbox.take():
            if self._gone:
                return
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if self._gone:
            return
        if outbox.error and not self._begun:
            await send_error(outbox.error, send)
            return
        if not self._begun:
            await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        await send({"type": "http.response.body", "body": outbox.error.frames() if outbox.error else b""})

    async def _whole(self, turn: Turn, send: Send) -> None:
        while await turn.outbox.take():
            pass
        if self._gone:
            return
        if turn.outbox.error:
            await send_error(turn.outbox.error, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": turn.translator.whole()})


async def send_error(error: ApiError, send: Send) -> None:
    """Answer with an error object."""
    headers = [(k.encode(), v.encode()) for k, v in error.headers.items()]
    headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body()})


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises ApiError (413) above `limit` bytes."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
        pieces.append(piece)
    return b"".join(pieces)


class WorkerApp:
    """The endpoints. All but `/healthz` and `/readyz` need the bearer token."""

    def __init__(
        self, settings: WorkerSettings, conversation: Conversation, ledger: Ledger, status: Status, guard: Guard
    ):
        self._settings = settings
        self._conversation = conversation
        self._ledger = ledger
        self._status = status
        self._guard = guard

    def asgi(self) -> Starlette:
        """The ASGI application."""
        guarded: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("POST", "/v1/chat/completions", self.chat),
            ("GET", "/status", self.status),
            ("POST", "/drain", self.drain),
            ("GET", "/transcript", self.transcript),
            ("GET", "/metrics", self.metrics),
        ]
        routes = [Route(path, self._guarded(endpoint), methods=[method]) for method, path, endpoint in guarded]
        routes += [Route("/healthz", self.health), Route("/readyz", self.ready)]
        return Starlette(routes=routes, exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error})

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if not self._guard.admits(request.headers.get("authorization", "")):
                raise ApiError(401, "The worker accepts only its session's token.", code="invalid_token")
            return await endpoint(request)

        return guarded

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        parsed = parse(await read_body(request, self._settings.max_body_bytes))
        return TurnResponse(
            self._conversation,
            parsed,
            self._settings.keepalive,
            self._settings.tool_activity,
            CLIENT_SESSION in request.headers,
        )

    async def status(self, request: Request) -> Response:
        """`GET /status`, with `?watch=true` as JSON lines: one now, one at every change, one at least every 15 s."""
        if request.query_params.get("watch") != "true":
            return JSONResponse(self._status.view())

        async def lines() -> AsyncIterator[bytes]:
            async for view in self._status.watch():
                yield json.dumps(view).encode() + b"\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def drain(self, request: Request) -> Response:
        """`POST /drain[?force=true&grace_ms=N]`."""
        force = request.query_params.get("force") == "true"
        grace = int(request.query_params.get("grace_ms", "0")) / 1000
        await self._conversation.drain(force=force, grace=grace)
        return JSONResponse({"drained": True})

    async def transcript(self, request: Request) -> Response:
        """`GET /transcript`: the conversation's messages as the CLI's memory has them."""
        session_id = self._ledger.state.claude_session_id
        found = await asyncio.to_thread(messages, self._settings.config_dir, session_id) if session_id else []
        return JSONResponse({"claude_session_id": session_id or None, "messages": found})

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics` in Prometheus' text format."""
        return PlainTextResponse(metrics.render(self._status.view()))

    async def health(self, request: Request) -> Response:
        """`GET /healthz`: the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: turns are taken."""
        return JSONResponse({"ready": self._status.ready}, status_code=200 if self._status.ready else 503)


async def _on_api_error(request: Request, error: Exception) -> Response:
    api = cast(ApiError, error)
    return Response(api.body(), status_code=api.status, headers=api.headers, media_type="application/json")


async def _on_http_error(request: Request, error: Exception) -> Response:
    http = cast(HTTPException, error)
    code = {404: "not_found", 405: "method_not_allowed"}.get(http.status_code, "http_error")
    api = ApiError(http.status_code, str(http.detail), code=code, headers=http.headers)
    return await _on_api_error(request, api)
