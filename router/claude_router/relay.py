"""The hot path: one turn from the client to its worker, and the worker's bytes back as they come.

No stream is parsed and no chunk is copied. A turn that cannot have begun (the worker refused the connection, or said
`x-claude-turn: not-started`) is sent again until its deadline. One that may have begun, but of whose answer nothing has
come, is sent again a few times with `x-claude-resent`: by `x-claude-request`, which stays the same, the worker knows
whether it has run, and gives the same answer again or refuses. Once an answer has begun, a lost worker is told to the
client.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from claude_router import errors
from claude_router.answer import Answer, HeaderList
from claude_router.client import Keepalives
from claude_router.identity import ID_HEADER
from claude_router.metrics import RouterMetrics
from claude_router.running import Running
from claude_router.sessions import ConversationKey, Lease, PoolExhausted, SessionFailed, Sessions, Unreachable
from claude_router.settings import EndpointSettings
from claude_worker.openai.errors import NOT_STARTED, ApiError

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
"""A worker is near; a connection that takes longer goes to an address where nobody lives any more."""

_KEEPALIVE_SECONDS = 3.0
"""Less than the worker's own (uvicorn's 5 s): a pooled connection is never used just as the worker closes it."""

_PAUSE_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Between attempts: a worker that keeps refusing must not make the router spin."""

_MOST_RESENT = 3
"""How often a turn that may have begun is sent again."""

_LARGE_BODY = 1 << 20  # aiohttp writes bytes in one go, and warns above this size; a file object goes in pieces
_ERROR_BODY_MAX = 1 << 20
_TIP = "x-claude-tip"
_NOT_RELAYED = frozenset({NOT_STARTED.encode(), ID_HEADER, _TIP.encode()})
_RELAYED = frozenset({b"content-type", b"cache-control", b"retry-after"})
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_LOST = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(slots=True)
class Turn:
    """One request, ready to be sent. `deadline` (event loop's clock) is until when it may wait for a worker.

    `made_up`: the conversation's id is one that no client has chosen. `resent`: how often it was sent again though it
    may have begun.
    """

    key: ConversationKey
    name: str
    path: str
    body: bytes
    stream: bool
    headers: Mapping[str, str]
    deadline: float
    made_up: bool = False
    resent: int = 0
    sent: bool = False
    """Whether a worker may have it."""


class Relay:
    """Sends turns to workers over one pool of connections. Made and closed on the event loop that uses it."""

    def __init__(
        self, settings: EndpointSettings, sessions: Sessions, metrics: RouterMetrics, running: Running
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._metrics = metrics
        self._running = running
        self._waiting: Counter[str] = Counter()
        self._urls: dict[tuple[str, str], URL] = {}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Close every connection to the workers."""
        await self._http.close()

    async def run(self, turn: Turn, answer: Answer) -> None:
        """Answer the turn completely. Raises ApiError when it fails; `answer.fail` then takes it."""
        try:
            await self._run(turn, answer)
        finally:
            if turn.sent:
                self._running.over(turn.name)

    async def _run(self, turn: Turn, answer: Answer) -> None:
        keepalives: Keepalives | None = None
        if turn.stream:
            keepalives = Keepalives(answer, self._settings.keepalive, self._metrics.keepalives.inc)
        try:
            response = await self._ask(turn)
        finally:
            if keepalives is not None:
                await keepalives.stop()
        try:
            await self._pass_on(turn, response, answer)
        except _LOST as error:
            if answer.completes():  # the worker had said all it had to say
                await answer.chunk(b"", more=False)
                return
            raise self._lost(turn, error) from error
        finally:
            response.close()  # after a complete answer this does nothing; else the worker sees at once that we left

    async def _ask(self, turn: Turn) -> aiohttp.ClientResponse:
        """The first answer of a worker that took the turn."""
        try:
            return await self._ask_until_taken(turn)
        except _LOST as error:
            raise self._lost(turn, error) from error
        except ApiError as error:
            if turn.resent:  # whatever came after: it may have run, and nobody can say so any more
                raise self._lost(turn, error.message) from error
            raise

    async def _ask_until_taken(self, turn: Turn) -> aiohttp.ClientResponse:
        attempt = 0
        refusal = ""
        while True:
            lease = await self._acquire(turn, refusal)
            response = await self._send(turn, lease)
            if response is not None and response.headers.get(NOT_STARTED) != "not-started":
                return response
            self._sessions.gone(turn.key, lease)
            refused = await self._refusal(turn, response)
            refusal = refused.message if refused else "it did not accept a connection"
            pause = _PAUSE_SECONDS[min(attempt, len(_PAUSE_SECONDS) - 1)]
            attempt += 1
            if asyncio.get_running_loop().time() + pause >= turn.deadline:
                raise refused or errors.session_failed(turn.name, "its worker does not accept connections.")
            log.info("turn sent again", extra={"fields": {"conversation": turn.name, "reason": refusal}})
            if pause:
                await asyncio.sleep(pause)

    async def _acquire(self, turn: Turn, refusal: str) -> Lease:
        limit = self._settings.max_queue
        waiting = self._waiting[turn.name]
        if waiting > limit:  # one of them is not waiting behind another: it is the next turn
            raise errors.conversation_queue_full(turn.name, waiting)
        self._waiting[turn.name] = waiting + 1
        try:
            await self._give_way(turn)
            return await self._sessions.acquire(turn.key, deadline=turn.deadline)
        except Unreachable as error:
            raise errors.unreachable(error) from error
        except PoolExhausted as error:
            raise errors.pool_exhausted(turn.name, self._queue_timeout(turn), error, refusal) from error
        except SessionFailed as error:
            raise errors.session_failed(turn.name, str(error)) from error
        finally:
            if self._waiting[turn.name] == 1:
                del self._waiting[turn.name]
            else:
                self._waiting[turn.name] -= 1

    def _queue_timeout(self, turn: Turn) -> float:
        return self._settings.pool_of(turn.key.tenant).queue_timeout

    async def _give_way(self, turn: Turn) -> None:
        """Before a turn is sent for the first time. It does not lose its time in the line by it."""
        if not turn.sent:
            clock = asyncio.get_running_loop().time
            came = clock()
            await self._running.give_way(turn.name, lambda: self._sessions.crowded(turn.key))
            turn.sent = True
            turn.deadline += clock() - came

    async def _send(self, turn: Turn, lease: Lease) -> aiohttp.ClientResponse | None:
        """The worker's status and headers, or None when it is to be sent again."""
        url = self._urls.get((lease.endpoint, turn.path))
        if url is None:
            if len(self._urls) > 10_000:
                self._urls.clear()
            url = self._urls[lease.endpoint, turn.path] = URL(lease.endpoint.rstrip("/") + turn.path)
        headers = {**turn.headers, "Authorization": f"Bearer {lease.token}"}
        if turn.resent:
            headers["x-claude-resent"] = "1"
        data = turn.body if len(turn.body) < _LARGE_BODY else io.BytesIO(turn.body)
        try:
            return await self._http.post(url, data=data, headers=headers, allow_redirects=False)
        except _NEVER_SENT:
            self._metrics.resent("refused_connection")
            return None
        except _LOST as error:
            if turn.resent == _MOST_RESENT:
                raise
            turn.resent += 1
            # It had found a worker in time; what it waits for now is another.
            turn.deadline = max(turn.deadline, asyncio.get_running_loop().time() + self._queue_timeout(turn))
            self._metrics.resent("connection_lost")
            log.warning(
                "connection to the worker lost before its answer",
                extra={"fields": {"conversation": turn.name, "reason": f"{type(error).__name__}: {error}"}},
            )
            return None

    async def _refusal(self, turn: Turn, response: aiohttp.ClientResponse | None) -> ApiError | None:
        """The error object of a worker that refused before the turn began."""
        if response is None:
            return None
        self._metrics.resent("not_started")
        try:
            body = await response.content.read(_ERROR_BODY_MAX)
        except _LOST:
            body = b""
        finally:
            response.close()
        return errors.from_worker(response.status, body, turn.name, retry_after=1)

    async def _pass_on(self, turn: Turn, response: aiohttp.ClientResponse, answer: Answer) -> None:
        headers, stream = _relayed(response)
        if stream and response.status == 200:
            if not answer.begun:
                await answer.begin(200, headers)
            await self._pass_stream(turn, response.content, answer)
            return
        # Anything else is short and comes at once; read to its end, so that a worker lost meanwhile is still a 502.
        body = await response.read()
        answer.told_tip = response.headers.get(_TIP, "")
        if answer.begun:
            raise errors.from_worker(response.status, body, turn.name)
        await answer.whole(response.status, headers, body)

    async def _pass_stream(self, turn: Turn, content: aiohttp.StreamReader, answer: Answer) -> None:
        while True:
            chunk = await content.readany()
            if content.at_eof():
                break
            await answer.chunk(chunk)
        if answer.completes(chunk):
            await answer.chunk(chunk, more=False)  # together with the end: one write less
            return
        if chunk:
            await answer.chunk(chunk)
        raise self._lost(turn, "the stream ended without its end")

    def _lost(self, turn: Turn, why: BaseException | str) -> ApiError:
        self._metrics.worker_lost.inc()
        reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
        log.warning("worker lost", extra={"fields": {"conversation": turn.name, "reason": reason}})
        return errors.worker_lost(turn.name)


def _relayed(response: aiohttp.ClientResponse) -> tuple[HeaderList, bool]:
    """The headers that are the client's business, and whether they announce an event stream."""
    headers: HeaderList = []
    stream = False
    for raw_name, value in response.raw_headers:
        name = raw_name.lower()
        if name in _RELAYED or (name.startswith(b"x-") and name not in _NOT_RELAYED):
            headers.append((name, value))
            if name == b"content-type":
                stream = value.lower().startswith(b"text/event-stream")
    return headers, stream
