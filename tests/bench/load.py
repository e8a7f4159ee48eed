"""A light load generator: keep-alive connections that send one prepared request again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_END = b"0\r\n\r\n"  # of a chunked answer
_CONTENT = b'"delta":{"content":"'


def request(url: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP request for `POST url/v1/chat/completions`."""
    data = json.dumps(body).encode()
    lines = [f"{k}: {v}\r\n" for k, v in (headers or {}).items()]
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n{''.join(lines)}\r\n"
    )
    return head.encode() + data


def chat_body(text: str) -> dict[str, object]:
    """A streamed request with one message."""
    return {"model": "claude-code", "stream": True, "messages": [{"role": "user", "content": text}]}


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds to the first content and to the end, and bytes received."""

    first: float
    whole: float
    size: int


class Connection:
    """One client's connection."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    async def open(self) -> None:
        host, port = self._address.hostname, self._address.port
        self._reader, self._writer = await asyncio.open_connection(host, port, limit=1 << 20)

    async def send(self, prepared: bytes) -> Timed:
        """Send it and read the answer to its end. Raises RuntimeError unless it is 200 and chunked."""
        began = time.perf_counter()
        self._writer.write(prepared)
        first, size, tail = 0.0, 0, b""
        while not tail.endswith(_END):
            data = await self._reader.read(1 << 18)
            if not data or (size == 0 and not data.startswith(b"HTTP/1.1 200")):
                raise RuntimeError(f"not an answer: {data[:300]!r}")
            size += len(data)
            if not first and _CONTENT in tail + data:
                first = time.perf_counter() - began
            tail = (tail + data)[-64:]
        return Timed(first or time.perf_counter() - began, time.perf_counter() - began, size)

    def close(self) -> None:
        self._writer.close()


async def run(url: str, prepared: bytes, *, streams: int, count: int) -> tuple[list[float], float]:
    """`count` requests over `streams` connections: the latency of each in seconds, and requests a second."""
    connections = [Connection(url) for _ in range(streams)]
    for connection in connections:
        await connection.open()
        await connection.send(prepared)
    share = max(1, count // streams)
    latencies: list[float] = []

    async def work(connection: Connection) -> None:
        for _ in range(share):
            latencies.append((await connection.send(prepared)).whole)

    began = time.perf_counter()
    await asyncio.gather(*(work(c) for c in connections))
    elapsed = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return latencies, len(latencies) / elapsed


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
