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
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from claude_router import audit, errors
from claude_router.access import Access, known_grant
from claude_router.addresses import conversation_of
from claude_router.auth import ApiKeys
from claude_router.chat import CLIENT_LEFT, Chat
from claude_router.docs import APIS, document, turn_request, turn_responses
from claude_router.logs import QUIET_ROUTES, log_access
from claude_router.matching import Matching
from claude_router.metrics import RouterMetrics
from claude_router.relay import Relay
from claude_router.routes import Routes
from claude_router.running import Running
from claude_router.sessions import Sessions
from claude_router.settings import EndpointSettings
from claude_router.usage import Usage
from claude_router.workspaces import GitHosts, nowhere
from claude_worker.dialect import DIALECTS, MESSAGES
from claude_worker.openai.errors import ApiError

log = logging.getLogger(__name__)

_UNMATCHED = "(none)"
_ERROR_KEY = "claude_error"
_DIALECTS = {dialect.path: dialect for dialect in DIALECTS}


class RouterApp(FastAPI):
    """FastAPI, except that turns go past its middlewares and routing, which would add a fifth to their cost."""

    chat: Chat
    metrics: RouterMetrics
    audited: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["method"] == "POST" and (dialect := _DIALECTS.get(_path(scope))) is not None:
            await self.chat.answer(dialect, scope, receive, send)
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
            self._account(scope, status or CLIENT_LEFT, time.perf_counter() - began)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = _template(scope)
        self.metrics.answered(route, status, seconds)
        grant = known_grant(scope)
        team = grant.shown if grant else ""
        if team:
            self.metrics.answered_team(team, status)
        log_access(scope["method"], route, status, seconds, team=team or None)
        if self.audited and route not in QUIET_ROUTES:
            audit.write(audit.Line(
                **audit.about(scope, grant, self.chat.access), method=scope["method"], route=route, model=None,
                conversation=conversation_of(scope, route) if grant else None, status=status,
                error=scope.get(_ERROR_KEY), latency_ms=round(seconds * 1000, 1), first_byte_ms=None,
                **audit.NOTHING.fields(),
            ))  # fmt: skip


def _path(scope: Scope) -> str:
    """The path below where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def _template(scope: Scope) -> str:
    """The route's path with its parameters' names: safe in logs, and few enough for metrics."""
    return str(getattr(scope.get("route"), "path_format", _UNMATCHED))


def create_app(
    settings: EndpointSettings,
    sessions: Sessions,
    *,
    version: str,
    access: Access | None = None,
    usage: Usage | None = None,
    running: Running | None = None,
    audited: bool = False,
    team_metrics: bool = False,
    git_hosts: GitHosts = nowhere,
) -> FastAPI:
    """The application. `version` is this package's; `access` is by the keys of the settings unless given.

    `audited`: each request has a line in the audit log, which somebody writes. `team_metrics`: metrics name teams.
    `git_hosts`: from where clients may have workspaces cloned.
    `app.state.running` (Running) counts the turns; `app.state.metrics` (RouterMetrics) holds the registry.
    """
    metrics = RouterMetrics(teams=team_metrics)
    running = running or Running()
    access = access or Access(ApiKeys(settings.api_keys))
    chat = Chat(
        settings, metrics, running, access, Matching(sessions), sessions.count, audited=audited, git_hosts=git_hosts
    )

    app = RouterApp(
        title="claude-code-api",
        version=version,
        description="Claude Code behind OpenAI's API: one conversation, one worker, one memory.",
        lifespan=_connected(chat, settings, sessions, metrics, running),
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=_HANDLERS,
    )
    app.chat = chat
    app.metrics = metrics
    app.audited = audited
    app.state.running = running
    app.state.metrics = metrics
    _document_turns(app)
    Routes(settings, sessions, metrics, running, access, usage or Usage(), version).add_to(app)
    app.openapi = lambda: document(app, keys=not access.open)  # type: ignore[method-assign]
    return app


def _connected(
    chat: Chat, settings: EndpointSettings, sessions: Sessions, metrics: RouterMetrics, running: Running
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The application's lifespan: connections to workers while it lasts."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        chat.relay = Relay(settings, sessions, metrics, running)
        try:
            yield
        finally:
            await chat.relay.close()

    return lifespan


def _document_turns(app: FastAPI) -> None:
    for api in APIS:
        app.add_api_route(
            api.dialect.path,
            _documented,
            methods=["POST"],
            responses=turn_responses(api),
            openapi_extra=turn_request(api),
            summary=api.summary,
            operation_id=api.operation,
            tags=[api.tag],
        )
    app.add_api_route(MESSAGES.path + "/count_tokens", _count_tokens, methods=["POST"], include_in_schema=False)


async def _documented() -> None:
    """One turn of a conversation. Fields without effect are accepted, and named in the header `X-Claude-Ignored`."""
    raise NotImplementedError("RouterApp answers this path; the route is here for /docs and for 405")


async def _count_tokens() -> None:
    raise errors.tokens_not_counted()


def _respond(request: Request, error: ApiError) -> Response:
    """The error as the path's API has it."""
    request.scope[_ERROR_KEY] = error.code
    anthropic = (_path(request.scope) + "/").startswith(MESSAGES.path + "/")
    body = MESSAGES.error(error) if anthropic else error.body()
    return Response(body, error.status, headers=error.headers, media_type="application/json")


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _respond(request, error)


async def _on_invalid_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(request, errors.invalid_parameter(error.errors()))


async def _on_unforeseen(request: Request, __: Exception) -> Response:
    return _respond(request, errors.internal_error())


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _respond(request, errors.unknown_path(request.method))
    if error.status_code == 405:
        return _respond(request, errors.method_not_allowed(request.method, _allowed(request)))
    return _respond(request, ApiError(error.status_code, str(error.detail), code="http_error"))


def _allowed(request: Request) -> str:
    """Every method that some route has at this path; the framework names those of one route only."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(methods))


_HANDLERS: dict[int | type[Exception], Any] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_exception,
    RequestValidationError: _on_invalid_parameter,
    Exception: _on_unforeseen,
}
