"""The listener for the router, for probes and for Prometheus: `/usage`, `/livez`, `/readyz`, `/metrics`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_router.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from claude_router.gateway.retention import day_of
from claude_router.gateway.usage import BY, Used, used
from claude_worker.openai.errors import ApiError, bad_request

_JSON = "application/json"


class UsageAnswer(msgspec.Struct):
    """What `/usage` answers."""

    by: str
    data: list[Used]


class Internal:
    """See the module. `problem` says why workers should not be sent here, or nothing."""

    def __init__(
        self,
        ledger: Path,
        metrics: GatewayMetrics,
        token: str,
        *,
        problem: Callable[[], str],
        waiting: Callable[[], int],
    ) -> None:
        """Without a `token`, `/usage` is closed."""
        self._ledger = ledger
        self._metrics = metrics
        self._token = hashlib.sha256(token.encode()).digest() if token else b""
        self._problem = problem
        self._waiting = waiting

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/usage", self._usage),
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/metrics", self._show_metrics),
            ],
            exception_handlers={
                ApiError: _on_api_error,
                HTTPException: _on_http_error,
                Exception: _on_unforeseen,
            },
        )

    async def _usage(self, request: Request) -> Response:
        self._check(request)
        query = request.query_params
        by = query.get("by", "day")
        if by not in BY:
            raise bad_request(f"'by' must be one of {', '.join(BY)}.", code="invalid_parameter", param="by")
        found = await asyncio.to_thread(
            used, self._ledger, by, since=_time(query.get("since"), "since"),
            until=_time(query.get("until"), "until"), team=query.get("team", ""), session=query.get("session", ""),
        )  # fmt: skip
        return Response(msgspec.json.encode(UsageAnswer(by, found)), media_type=_JSON)

    def _check(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode()).digest()
        if scheme.lower() != "bearer" or not self._token or not hmac.compare_digest(digest, self._token):
            raise ApiError(401, "The token is not valid.", code="invalid_token", headers={"www-authenticate": "Bearer"})

    async def _livez(self, _: Request) -> Response:
        return Response("ok", media_type="text/plain")

    async def _readyz(self, _: Request) -> Response:
        problem = self._problem()
        return Response(problem or "ok", 503 if problem else 200, media_type="text/plain")

    async def _show_metrics(self, _: Request) -> Response:
        return Response(self._metrics.render(self._waiting()), media_type=CONTENT_TYPE)


def _time(text: str | None, name: str) -> float | None:
    """`2030-01-31`, `2030-01-31T12:00:00Z` or Unix seconds. Raises ApiError (400). Without a zone it is UTC."""
    if not text:
        return None
    try:
        if text.replace(".", "", 1).isdigit() and text.isascii():
            seconds = float(text)
        else:
            when = datetime.fromisoformat(text)
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        day_of(seconds)
        return seconds
    except (ValueError, OverflowError, OSError) as error:
        message = f"'{name}' must be a date, a time with a zone, or Unix seconds."
        raise bad_request(message, code="invalid_parameter", param=name) from error


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    api = ApiError(error.status_code, str(error.detail), code=code, headers=error.headers)
    return await _on_api_error(request, api)


async def _on_unforeseen(request: Request, _: Exception) -> Response:
    return await _on_api_error(request, ApiError(500, "The gateway failed. Its log says why.", code="internal_error"))


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.body(), error.status, headers=error.headers, media_type=_JSON)
