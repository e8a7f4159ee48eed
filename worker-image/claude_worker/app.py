"""The worker over HTTP: a one-conversation OpenAI server, and what the pool needs to look after it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from claude_worker import metrics, placement
from claude_worker.asking import conversation_of, hints_of, keys_of
from claude_worker.conversation import Conversation
from claude_worker.dialect import DIALECTS, Dialect
from claude_worker.events import End
from claude_worker.files import file_routes
from claude_worker.guard import Guard
from claude_worker.history import Hints
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.request import ChatRequest
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.transcript import messages
from claude_worker.translate import Translator
from claude_worker.turn import Reader, Turn

log = logging.getLogger(__name__)

_MILLISECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, as it goes to the conversation. `keepalive` (seconds) only for a stream."""

    dialect: Dialect
    request: ChatRequest
    turn: Turn
    hints: Hints
    keys: list[str]
    ignored: list[str]
    keepalive: float | None


class TurnResponse(Response):
    """The answer of one turn, written as the CLI gives it.

    Status and headers leave with the first bytes: a turn that fails before those fails with a real status.
    """

    def __init__(self, conversation: Conversation, asked: Asking) -> None:
        self._conversation = conversation
        self._asked = asked
        self._begun = False
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, request = self._asked, self._asked.request
        reader = Reader(asked.turn, lambda head: asked.dialect.writer(head, request), asked.keepalive)
        leaving = asyncio.create_task(self._watch(receive, reader))
        try:
            self._conversation.submit(request, asked.turn, asked.hints, asked.keys)
            if request.stream:
                await self._stream(reader, send)
            else:
                await self._whole(reader, send)
            if not self._gone and reader.outbox.error is None:
                self._conversation.delivered(reader.turn)
        except ApiError as error:
            await self._fail(error, send)
        finally:
            leaving.cancel()
            reader.leave()

    async def _watch(self, receive: Receive, reader: Reader) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        reader.outbox.close()

    def _headers_of(self, turn: Turn, content_type: bytes) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", content_type), (b"cache-control", b"no-cache")]
        if turn.history:
            headers.append((b"x-claude-history", turn.history.encode()))
        if ignored := [*self._asked.ignored, *turn.ignored]:
            headers.append((b"x-claude-ignored", ", ".join(ignored).encode("latin-1", "replace")))
        return headers

    async def _begin(self, turn: Turn, send: Send) -> None:
        if not self._begun:
            self._begun = True
            headers = self._headers_of(turn, b"text/event-stream; charset=utf-8")
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _stream(self, reader: Reader, send: Send) -> None:
        while data := await reader.outbox.take():
            if self._gone:
                return
            await self._begin(reader.turn, send)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if self._gone:
            return
        error = reader.outbox.error
        if error and not self._begun:
            await self._fail(error, send)
            return
        await self._begin(reader.turn, send)
        await send({"type": "http.response.body", "body": reader.writer.failed(error) if error else b""})

    async def _whole(self, reader: Reader, send: Send) -> None:
        while await reader.outbox.take():
            pass
        turn = reader.turn
        if self._gone:
            return
        if reader.outbox.error:
            await self._fail(reader.outbox.error, send)
            return
        headers = self._headers_of(turn, b"application/json")
        end = turn.events[-1] if turn.events else None
        if isinstance(end, End) and end.tip:
            headers.append((b"x-claude-tip", end.tip.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reader.writer.whole(turn.events)})

    async def _fail(self, error: ApiError, send: Send) -> None:
        if not self._gone:
            await send_error(error, self._asked.dialect.error(error), send)


async def send_error(error: ApiError, body: bytes, send: Send) -> None:
    """Answer with an error object."""
    headers = [(k.encode(), v.encode()) for k, v in error.headers.items()]
    headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises ApiError (400: it did not come to its end; 413: above `limit` bytes)."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
            pieces.append(piece)
    except ClientDisconnect:
        raise bad_request("The body ended before it was complete.", code="incomplete_body") from None
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
            *(("POST", dialect.path, self.turn(dialect)) for dialect in DIALECTS),
            ("GET", "/status", self.status),
            ("POST", "/drain", self.drain),
            ("GET", "/transcript", self.transcript),
            ("GET", "/metrics", self.metrics),
            *file_routes(self._settings, self._status, self._conversation),
        ]
        routes = [Route(path, self._guarded(endpoint), methods=[method]) for method, path, endpoint in guarded]
        routes += [Route("/healthz", self.health), Route("/readyz", self.ready)]
        return Starlette(routes=routes, exception_handlers=_HANDLERS)

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if not self._guard.admits(request.headers.get("authorization", "")):
                raise ApiError(401, "The worker accepts only its session's token.", code="invalid_token")
            return await endpoint(request)

        return guarded

    def turn(self, dialect: Dialect) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of one API."""

        async def answer(request: Request) -> Response:
            try:
                body = await read_body(request, self._settings.max_body_bytes)
                parsed = dialect.parse(body)
                return TurnResponse(self._conversation, self._asking(dialect, parsed, request.headers))
            except ApiError as error:
                return Response(
                    dialect.error(error), error.status, headers=error.headers, media_type="application/json"
                )

        return answer

    def _asking(self, dialect: Dialect, request: ChatRequest, headers: Headers) -> Asking:
        settings = self._settings
        model = settings.resolve(request.model)
        translator = Translator(tool_activity=settings.tool_activity, structured=request.schema() is not None)
        conversation = conversation_of(headers)
        return Asking(
            dialect,
            request,
            Turn(translator, request.model, int(time.time()), conversation),
            hints_of(headers),
            keys_of(headers),
            dialect.ignored(request, own_tools_only=model is None or model.tools == "own"),
            settings.keepalive if request.stream else None,
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
        given = request.query_params.get("grace_ms", "0")
        if not _MILLISECONDS.fullmatch(given):
            raise bad_request(
                "'grace_ms' must be a number of milliseconds.", code="invalid_parameter", param="grace_ms"
            )
        grace = int(given) / 1000
        await self._conversation.drain(force=force, grace=grace)
        return JSONResponse({"drained": True})

    async def transcript(self, request: Request) -> Response:
        """`GET /transcript`: the conversation's messages as the CLI's memory has them."""
        await placement.flushed(self._ledger, self._settings.config_dir)
        session_id, fork = self._ledger.state.claude_session_id, self._ledger.state.fork
        found = await asyncio.to_thread(messages, self._settings.config_dir, session_id, fork) if session_id else []
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


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    return await _on_api_error(request, ApiError(500, "The worker failed. Its log says why.", code="internal_error"))


_HANDLERS: dict[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_error,
    Exception: _on_unforeseen,
}
