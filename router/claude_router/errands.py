"""Requests to a conversation's worker that are no turns: few, some of them long, none of them hot.

A worker is acquired as for a turn. Sent again is only what no worker has read anything of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from yarl import URL

from claude_router import errors
from claude_router.running import Running
from claude_router.sessions import ConversationKey, Lease, PoolExhausted, SessionFailed, Sessions, Unreachable
from claude_router.settings import EndpointSettings
from claude_worker.openai.errors import NOT_STARTED, ApiError, bad_request

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_PAUSE_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)
_ERROR_BODY_MAX = 1 << 20
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
LOST = (aiohttp.ClientError, OSError, TimeoutError)
_RELAYED = (
    "content-type", "content-length", "content-disposition", "x-content-type-options", "content-security-policy",
    "cache-control",
)  # fmt: skip


class Upload:
    """A body on its way to a worker. `begun`: some of it has been taken; `error`: why it did not end."""

    def __init__(self, pieces: AsyncIterator[bytes], *, limit: int | None = None) -> None:
        self._pieces = pieces
        self._limit = limit
        self.begun = False
        self.error: ApiError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        size = 0
        try:
            async for piece in self._pieces:
                size += len(piece)
                if self._limit is not None and size > self._limit:
                    raise errors.body_too_large(self._limit)
                yield piece
        except ClientDisconnect:
            self.error = bad_request("The body ended before it was complete.", code="incomplete_body")
            raise self.error from None
        except ApiError as error:
            self.error = error
            raise


@dataclass(frozen=True, slots=True)
class Errand:
    """What to ask of the worker. `path` is percent-encoded; `patience`: seconds to wait for the answer's beginning."""

    key: ConversationKey
    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Upload | None = None
    patience: float | None = None

    def url(self, lease: Lease) -> URL:
        # As it is: normalised, a path with `..` would name another file instead of being refused.
        url = URL(lease.endpoint.rstrip("/") + self.path, encoded=True)
        return url.with_query(dict(self.query)) if self.query else url


class Errands:
    """Sends them, each over connections of its own."""

    def __init__(self, settings: EndpointSettings, sessions: Sessions, running: Running) -> None:
        self._settings = settings
        self._sessions = sessions
        self._running = running

    def queue_timeout(self, key: ConversationKey) -> float:
        """Seconds that a request for this conversation may wait for a worker."""
        return self._settings.pool_of(key.tenant).queue_timeout

    @asynccontextmanager
    async def run(self, errand: Errand) -> AsyncIterator[aiohttp.ClientResponse]:
        """The worker's answer, whose body is still to be read. Raises ApiError for anything but success."""
        if self._running.draining:
            raise errors.shutting_down()
        name = errand.key.name
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        with self._running:
            self._running.begin(name)
            try:
                async with (
                    aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http,
                    await self._ask(http, errand) as response,
                ):
                    if response.status >= 400:
                        body = await response.content.read(_ERROR_BODY_MAX)
                        raise errors.from_worker(response.status, body, name)
                    yield response
            except LOST as error:
                raise _lost(errand, error) from error
            finally:
                self._running.end(name)

    async def _ask(self, http: aiohttp.ClientSession, errand: Errand) -> aiohttp.ClientResponse:
        now = asyncio.get_running_loop().time
        deadline = now() + self.queue_timeout(errand.key)
        attempt = 0
        while True:
            lease = await self._acquire(errand.key, deadline)
            response = await self._send(http, errand, lease)
            if response is not None and response.headers.get(NOT_STARTED) != "not-started":
                return response
            self._sessions.gone(errand.key, lease)
            pause = _PAUSE_SECONDS[min(attempt, len(_PAUSE_SECONDS) - 1)]
            attempt += 1
            over = now() + pause >= deadline or (errand.body is not None and errand.body.begun)
            if response is not None:
                body = await response.content.read(_ERROR_BODY_MAX)
                response.close()
                if over:
                    raise errors.from_worker(response.status, body, errand.key.name, retry_after=1)
            elif over:
                raise errors.session_failed(errand.key.name, "its worker does not accept connections.")
            await asyncio.sleep(pause)

    async def _acquire(self, key: ConversationKey, deadline: float) -> Lease:
        try:
            return await self._sessions.acquire(key, deadline=deadline)
        except Unreachable as error:
            raise errors.unreachable(error) from error
        except PoolExhausted as error:
            raise errors.pool_exhausted(key.name, self.queue_timeout(key), error) from error
        except SessionFailed as error:
            raise errors.session_failed(key.name, str(error)) from error

    async def _send(self, http: aiohttp.ClientSession, errand: Errand, lease: Lease) -> aiohttp.ClientResponse | None:
        """The worker's status and headers, or None when it got nothing of it."""
        headers = {"Authorization": f"Bearer {lease.token}"}
        asking = http.request(
            errand.method, errand.url(lease), data=errand.body, headers=headers, allow_redirects=False
        )
        try:
            async with asyncio.timeout(errand.patience) as limit:
                return await asking
        except _NEVER_SENT:
            return None
        except LOST as error:
            if limit.expired():
                raise errors.conversation_busy(errand.key.name) from error
            raise _lost(errand, error) from error


def _lost(errand: Errand, error: Exception) -> ApiError:
    if errand.body is not None and errand.body.error is not None:
        return errand.body.error
    fields = {"conversation": errand.key.name, "reason": f"{type(error).__name__}: {error}"}
    log.warning("worker lost", extra={"fields": fields})
    return errors.worker_gone(errand.key.name)


class Relayed(Response):
    """A worker's answer, passed on as it comes. `held` is let go at its end, or when the client has left."""

    def __init__(self, worker: aiohttp.ClientResponse, held: AsyncExitStack) -> None:
        super().__init__(status_code=worker.status)
        del self.headers["content-length"]  # that of no body at all
        for name in _RELAYED:
            if (value := worker.headers.get(name)) is not None:
                self.headers[name] = value
        self._worker = worker
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn takes what is sent to a client that has left, and says nothing.
        leaving = asyncio.create_task(_left(receive))
        try:
            async with self._held:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for piece in self._worker.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if leaving.done():
                        return
                await send({"type": "http.response.body", "body": b""})
        except ApiError as error:
            # Too late for an error object: that the body does not end is what tells the client.
            log.warning("a download broke off: %s", error)
        finally:
            leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
