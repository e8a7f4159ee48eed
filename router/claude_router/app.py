"""The HTTP application: routes, and the form that every error takes.

    app = create_app(settings, sessions, version="0.1.0")
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", http="httptools", loop="uvloop")

The sessions are begun before and closed after it, by whoever made them. To stop without cutting turns off:
`app.state.running.drain()`, `await app.state.running.idle(grace)`, then stop the server.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from claude_router import errors
from claude_router.auth import ApiKeys
from claude_router.chat import CLIENT_LEFT, Chat
from claude_router.docs import chat_request, chat_responses, document
from claude_router.logs import log_access
from claude_router.metrics import RouterMetrics
from claude_router.relay import PATH, Relay
from claude_router.routes import Routes
from claude_router.running import Running
from claude_router.sessions import Sessions
from claude_router.settings import EndpointSettings
from claude_worker.openai.errors import ApiError

log = logging.getLogger(__name__)

_UNMATCHED = "(none)"


class RouterApp(FastAPI):
    """FastAPI, except that a chat request goes past its middlewares and routing: they would add a fifth to its cost."""

    chat: Chat
    metrics: RouterMetrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"] == scope.get("root_path", "") + PATH:
            await self.chat(scope, receive, send)
        else:
            await self._observed(scope, receive, send)

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any other request: counted, logged, and answered in the error format even when something unforeseen fails."""
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await super().__call__(scope, receive, watched)
        except Exception:
            # Starlette has sent the 500 of `_on_unforeseen` and raises again, for a server that would log it.
            log.exception("request failed", extra={"fields": {"route": _template(scope)}})
        finally:
            seconds = time.perf_counter() - began
            self.metrics.answered(_template(scope), status or CLIENT_LEFT, seconds)
            log_access(scope["method"], _template(scope), status or CLIENT_LEFT, seconds)


def _template(scope: Scope) -> str:
    """The route's path with its parameters' names: safe in logs, and few enough for metrics."""
    return str(getattr(scope.get("route"), "path_format", _UNMATCHED))


def create_app(
    settings: EndpointSettings,
    sessions: Sessions,
    *,
    version: str,
    keys: ApiKeys | None = None,
    running: Running | None = None,
) -> FastAPI:
    """The application. `version` is this package's; `keys` are those of the settings unless given.

    `app.state.running` (Running) counts the turns; `app.state.metrics` (RouterMetrics) holds the registry.
    """
    metrics = RouterMetrics()
    running = running or Running()
    keys = keys or ApiKeys(settings.api_keys)
    chat = Chat(settings, metrics, running, keys)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        chat.relay = Relay(settings, sessions, metrics)
        try:
            yield
        finally:
            await chat.relay.close()

    app = RouterApp(
        title="claude-code-api",
        version=version,
        description="Claude Code behind OpenAI's API: one conversation, one worker, one memory.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_exception,
            RequestValidationError: _on_invalid_parameter,
            Exception: _on_unforeseen,
        },
    )
    app.chat = chat
    app.metrics = metrics
    app.state.running = running
    app.state.metrics = metrics
    _document_chat(app)
    Routes(settings, sessions, metrics, running, keys, version).add_to(app)
    app.openapi = lambda: document(app, keys=not keys.open)  # type: ignore[method-assign]
    return app


def _document_chat(app: FastAPI) -> None:
    app.add_api_route(
        PATH,
        _documented,
        methods=["POST"],
        responses=chat_responses(),
        openapi_extra=chat_request(),
        summary="Create chat completion",
        tags=["OpenAI"],
    )


async def _documented() -> None:
    """One turn of a conversation. Fields that are not listed are accepted and have no effect."""
    raise NotImplementedError("RouterApp answers this path; the route is here for /docs and for 405")


def _respond(error: ApiError) -> Response:
    return Response(error.body(), error.status, headers=error.headers, media_type="application/json")


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _respond(error)


async def _on_invalid_parameter(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(errors.invalid_parameter(error.errors()))


async def _on_unforeseen(_: Request, __: Exception) -> Response:
    return _respond(errors.internal_error())


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _respond(errors.unknown_path(request.method))
    if error.status_code == 405:
        return _respond(errors.method_not_allowed(request.method, _allowed(request)))
    return _respond(ApiError(error.status_code, str(error.detail), code="http_error"))


def _allowed(request: Request) -> str:
    """Every method that some route has at this path; the framework names those of one route only."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(methods))
