"""The endpoints for turns, one for each API: who asks, what, of which conversation; then the relay.

Plain ASGI, and no FastAPI endpoint with dependencies: this is where a tenth of a millisecond counts. `app.py` documents
and mounts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from claude_router import errors
from claude_router.answer import Answer
from claude_router.auth import ApiKeys
from claude_router.client import ClientLeft, ClientWatch, read_body
from claude_router.identity import ID_HEADER, Identity, from_header, header_value, identify
from claude_router.logs import log_access
from claude_router.matching import Matching
from claude_router.metrics import RouterMetrics
from claude_router.relay import Relay, Turn
from claude_router.running import Running
from claude_router.sessions import LOCAL_TENANT, ConversationKey
from claude_router.settings import EndpointSettings
from claude_worker.dialect import Dialect
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""Status in log and metrics when the client left before the end of its answer; nobody is there to receive it."""

_FORWARDED = {
    name.encode(): name
    for name in ("idempotency-key", "x-claude-history", "x-parent-session-id", "x-stainless-retry-count")
}
"""The client's headers that mean something to a worker. Its Authorization and whatever else it sends stay here."""


class Chat:
    """The endpoints. `relay` is set while the app's lifespan runs."""

    relay: Relay

    def __init__(
        self,
        settings: EndpointSettings,
        metrics: RouterMetrics,
        running: Running,
        keys: ApiKeys,
        matching: Matching,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._running = running
        self._keys = keys
        self._matching = matching

    async def answer(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens, and count and log it."""
        began = time.perf_counter()
        answer = Answer(send, dialect)
        name = ""
        status = CLIENT_LEFT
        self._metrics.running.inc()
        try:
            with self._running:
                turn = await self._prepare(scope, receive, answer)
                name = turn.name
                self._running.begin(name)
                async with ClientWatch(receive) as watch:
                    await self._run(turn, answer, watch)
                if turn.made_up and (tip := answer.tip):
                    self._matching.note(turn.key, tip)
                if not watch.left:
                    status = answer.status
        except ClientLeft:
            pass
        except ApiError as error:
            await answer.fail(error)
            status = answer.status
        except Exception:
            log.exception("chat request failed")
            await answer.fail(errors.internal_error())
            status = answer.status
        finally:
            self._metrics.running.dec()
            if name:
                self._running.end(name)
            self._account(answer, name, status, began)

    async def _run(self, turn: Turn, answer: Answer, watch: ClientWatch) -> None:
        """Relay the turn; its failures are answered here, while the client is still watched."""
        try:
            await self.relay.run(turn, answer)
        except ApiError as error:
            await answer.fail(error)
        except asyncio.CancelledError:
            if not watch.left:  # then it is the end of the server's grace: no silent end, not even now
                with contextlib.suppress(Exception):
                    await answer.fail(errors.shutting_down())
            raise
        except Exception:
            log.exception("turn failed", extra={"fields": {"conversation": turn.name}})
            await answer.fail(errors.internal_error())

    async def _prepare(self, scope: Scope, receive: Receive, answer: Answer) -> Turn:
        """The turn that the request asks for. Raises ApiError and ClientLeft."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self._keys.check(headers)
        if known := from_header(headers):
            answer.headers = [(ID_HEADER, header_value(known))]
        if self._running.draining:
            raise errors.shutting_down()
        body = await read_body(receive, headers, self._settings.max_body_bytes)
        request = answer.dialect.parse(body)
        identity = self._identity(headers, request)
        answer.headers = [(ID_HEADER, header_value(identity.id))]
        if not self._settings.offers(identity.model):
            raise errors.model_not_found(identity.model, self._settings.model_ids)
        return self._turn(headers, body, request, identity, answer.dialect.path)

    def _identity(self, headers: dict[bytes, bytes], request: ChatRequest) -> Identity:
        identity = identify(headers, request)
        if identity.source == "generated" and (found := self._matching.find(LOCAL_TENANT, request)):
            return Identity(found.id, identity.model, "history")
        return identity

    def _turn(
        self, headers: dict[bytes, bytes], body: bytes, request: ChatRequest, identity: Identity, path: str
    ) -> Turn:
        key = ConversationKey(LOCAL_TENANT, identity.id)
        forwarded = {
            "Content-Type": "application/json",
            "x-claude-model": identity.model,
            "x-claude-conversation": quote(identity.id, safe="", errors="surrogatepass"),
            "x-claude-request": os.urandom(16).hex(),
        }
        if identity.source == "session-header":
            forwarded["x-claude-client-session"] = "1"
        for raw, header in _FORWARDED.items():
            if raw in headers:
                forwarded[header] = headers[raw].decode("latin-1")
        return Turn(
            key=key,
            name=key.name,
            path=path,
            body=body,
            stream=bool(request.stream),
            headers=forwarded,
            deadline=asyncio.get_running_loop().time() + self._settings.queue_timeout,
            made_up=identity.source in ("generated", "history"),
        )

    def _account(self, answer: Answer, name: str, status: int, began: float) -> None:
        seconds = time.perf_counter() - began
        waited = answer.first_byte - began if answer.first_byte else None
        path = answer.dialect.path
        self._metrics.answered(path, status, seconds)
        if waited is not None:
            self._metrics.first_byte.observe(waited)
        first = None if waited is None else round(waited * 1000, 1)
        log_access(
            "POST", path, status, seconds, conversation=name or None, first_byte_ms=first, error=answer.code or None
        )
