"""The listener for workers: who calls, whether they may, and the form that every refusal takes."""

from __future__ import annotations

import logging
import time

from starlette.types import Message, Receive, Scope, Send

from claude_router.client import ClientLeft
from claude_router.gateway import errors, routes
from claude_router.gateway.body import Body
from claude_router.gateway.callers import Caller, Credentials, credential_in
from claude_router.gateway.crowd import MOST_AT_A_TIME, Crowd
from claude_router.gateway.headers import HeaderList
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.relay import Call, Relay
from claude_router.gateway.routes import Route
from claude_router.gateway.teams import Teams
from claude_router.gateway.upstreams import Upstreams
from claude_worker.anthropic.errors import body as error_body
from claude_worker.openai.errors import ApiError, bad_request

log = logging.getLogger(__name__)

LEFT = 499
"""Instead of a status: the worker had left, or its answer was cut."""
_JSON = (b"content-type", b"application/json")


class GatewayApp:
    """An ASGI application without a framework: it has five routes, and each millisecond counts."""

    def __init__(
        self,
        credentials: Credentials,
        teams: Teams,
        upstreams: Upstreams,
        relay: Relay,
        metrics: GatewayMetrics,
        *,
        max_body_bytes: int,
        most_at_a_time: int = MOST_AT_A_TIME,
    ) -> None:
        """`most_at_a_time` requests of one worker run; their bodies are at most twice `max_body_bytes` together."""
        self._credentials = credentials
        self._teams = teams
        self._upstreams = upstreams
        self._relay = relay
        self._metrics = metrics
        self._limit = max_body_bytes
        self._crowd = Crowd(most_at_a_time, 2 * max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        route = routes.find(scope["method"], scope.get("raw_path") or scope["path"].encode())
        outgoing = _Outgoing(send)
        self._metrics.running.inc()
        try:
            await self._answer(route, scope, receive, outgoing)
        except ApiError as error:
            self._metrics.refused(error.code or error.kind)
            await outgoing.fail(error)
        except ClientLeft:
            pass
        except Exception:
            log.exception("a request failed", extra={"fields": {"route": route.name if route else ""}})
            await outgoing.fail(errors.internal())
        finally:
            self._metrics.running.dec()
            self._metrics.answered(route.name if route else "(none)", outgoing.status if outgoing.ended else LEFT)

    async def _answer(self, route: Route | None, scope: Scope, receive: Receive, send: _Outgoing) -> None:
        arrived = time.perf_counter()
        if route is None:
            raise errors.unknown_path(_method(scope["method"]))
        if route.local:
            await send.whole(200, [_JSON], b"" if route.method == "HEAD" else b'{"status":"ok"}')
            return
        received: HeaderList = scope["headers"]
        by_name = dict(received)
        caller = await self._credentials.check(credential_in(by_name))
        policy = self._teams.policy(caller)
        if policy is None:
            raise errors.no_team(caller.team)
        upstream = self._upstreams.of(caller, policy)
        length = _length(by_name, self._limit)
        body = Body(receive, self._limit, length)
        call = Call(caller, policy, upstream, route, scope["query_string"], received, body, arrived)
        send.body = body
        try:
            with self._crowd.entered(caller.pod or caller.session, self._limit if length is None else length):
                await self._relay.run(call, receive, send)
        finally:
            _log(call, send, time.perf_counter() - arrived)


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "this method"


def _length(headers: dict[bytes, bytes], limit: int) -> int | None:
    """The announced length of the body; None: it comes in chunks. Raises ApiError (400, 413)."""
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise errors.bad_body("it is compressed, so nobody can see which model it asks for")
    announced = headers.get(b"content-length")
    if announced is None:
        return None if b"transfer-encoding" in headers else 0
    if not announced.isdigit() or len(announced) > 18:
        raise bad_request("The header Content-Length is not a number.", code="invalid_content_length")
    length = int(announced)
    if length > limit:
        raise errors.too_large(limit)
    return length


def _log(call: Call, send: _Outgoing, seconds: float) -> None:
    caller: Caller = call.caller
    log.info("request", extra={"fields": {
        "id": call.metered.id if call.metered else "", "route": call.route.name, "session": caller.session,
        "team": caller.team, "pod": caller.pod, "model": call.metered.model if call.metered else "",
        "status": (send.status or call.status) if send.ended else LEFT, "seconds": round(seconds, 4),
    }})  # fmt: skip


class _Outgoing:
    """The worker's end: begun at most once, and what has been said is known."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.body: Body | None = None
        self.status = 0
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def whole(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Begin and end."""
        length = (b"content-length", b"%d" % len(body))
        await self({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self({"type": "http.response.body", "body": body, "more_body": False})

    async def fail(self, error: ApiError) -> None:
        """Refuse, if nothing has gone out yet; else the connection is cut when we return."""
        if self.status:
            return
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        if self.body is None or not self.body.complete:
            headers.append((b"connection", b"close"))  # what is left of the request is not read
        await self.whole(error.status, [_JSON, *headers], error_body(error))
