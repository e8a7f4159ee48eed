"""A light load generator: keep-alive connections that send one prepared request again and again.

It shares the machine's cores with what it measures. So no HTTP library: an answer is searched, not parsed, and only
`answer` looks at what it says.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import uvloop

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""No answer takes longer, or the measurement fails."""

_OK = b"HTTP/1.1 200 "
_END = b"\r\n0\r\n\r\n"  # of a chunked answer
_DONE = b"data: [DONE]"
_CONTENT = re.compile(rb'"content":\s?"[^"]')  # an empty one is the role's chunk
_ERROR = re.compile(rb'data: \{"error"')
_TAIL = 64  # bytes of the part before that may belong to any of these


class NotAnAnswer(Exception):
    """What came back is no complete stream of a completion; the message holds its beginning."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds from the request to the first content and to the end, and bytes received."""

    first: float
    whole: float
    size: int


def on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it on the event loop that the router and the workers use as well."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@dataclass(frozen=True, slots=True)
class Answer:
    """A stream that was kept: its head, in lower case, and its events."""

    timed: Timed
    head: str
    events: list[Any]

    @property
    def deltas(self) -> list[Any]:
        return [choice["delta"] for event in self.events for choice in event["choices"]]

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)


def request(url: str, text: str, headers: Mapping[str, str] | None = None, *, model: str = "claude-code") -> bytes:
    """A whole HTTP request for a streamed completion of one message."""
    return completion(url, [{"role": "user", "content": text}], headers, model=model)


def completion(url: str, messages: Sequence[Any], headers: Mapping[str, str] | None = None, **fields: Any) -> bytes:
    """The same of any messages; `fields` are further ones of the body, `model` among them."""
    data = json.dumps({"stream": True, "messages": messages} | fields).encode()
    lines = [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n{''.join(lines)}\r\n"
    )
    return head.encode() + data


class Connection(asyncio.Protocol):
    """One client's connection; one request at a time."""

    @classmethod
    async def open(cls, url: str) -> Connection:
        host, _, port = urlsplit(url).netloc.partition(":")
        _, protocol = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by its shape: uvloop's own is no subclass
        self._answered: asyncio.Future[None] | None = None
        self._kept: list[bytes] | None = None

    async def send(self, prepared: bytes) -> Timed:
        """Send it and read the answer to its end. Raises NotAnAnswer, TimeoutError."""
        self._answered = asyncio.get_running_loop().create_future()
        self._first, self._size, self._tail = 0.0, 0, b""
        began = time.perf_counter()
        self._transport.write(prepared)
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._answered
        return Timed(self._first - began, time.perf_counter() - began, self._size)

    async def answer(self, prepared: bytes) -> Answer:
        """The same; and what the answer was, to see that what is measured is what was meant."""
        self._kept = []
        timed = await self.send(prepared)
        head, _, body = b"".join(self._kept).partition(b"\r\n\r\n")
        self._kept = None
        data = [line[6:] for line in dechunked(body).splitlines() if line.startswith(b"data: {")]
        return Answer(timed, head.decode("latin-1").lower(), [json.loads(event) for event in data])

    async def text(self, prepared: bytes) -> list[str]:
        """The texts of its chunks."""
        return [delta["content"] for delta in (await self.answer(prepared)).deltas if delta.get("content")]

    def close(self) -> None:
        self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            return
        if self._kept is not None:
            self._kept.append(data)
        window = self._tail + data
        if self._size < len(_OK) and not window.startswith(_OK[: len(window)]):
            self._fail(window[:300])
            return
        self._size += len(data)
        if not self._first and _CONTENT.search(window):
            self._first = time.perf_counter()
        self._tail = window[-_TAIL:]
        if self._tail.endswith(_END):
            if not self._first or _DONE not in self._tail or _ERROR.search(window):
                self._fail(window[:1000])
            else:
                self._answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(b"the connection was closed")

    def _fail(self, what: bytes) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(NotAnAnswer(what.decode(errors="replace")))


def dechunked(data: bytes) -> bytes:
    """The content of a complete chunked body."""
    pieces: list[bytes] = []
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return b"".join(pieces)
        pieces.append(data[:size])
        data = data[size + 2 :]


async def run(prepared: Sequence[bytes], url: str, count: int) -> tuple[list[float], float]:
    """About `count` requests over a connection for each prepared one, all at once.

    Gives the seconds that each took, and how many there were a second. Connecting and a first request are not counted.
    """
    connections = [await Connection.open(url) for _ in prepared]
    taken: list[float] = []

    async def work(connection: Connection, mine: bytes) -> None:
        for _ in range(max(1, count // len(prepared))):
            taken.append((await connection.send(mine)).whole)

    for connection, mine in zip(connections, prepared, strict=True):
        await connection.send(mine)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection, mine in zip(connections, prepared, strict=True):
            group.create_task(work(connection, mine))
    rate = len(taken) / (time.perf_counter() - began)
    for connection in connections:
        connection.close()
    return taken, rate


async def check(url: str, prepared: bytes, expected: str) -> None:
    """Raises NotAnAnswer unless the request is answered with exactly this text."""
    connection = await Connection.open(url)
    with closing(connection):
        said = "".join(await connection.text(prepared))
    if said != expected:
        raise NotAnAnswer(f"{url} said {said[:300]!r} instead of {expected[:300]!r}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
