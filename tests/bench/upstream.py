"""`python -m bench.upstream PORT`: a trivial OpenAI-like server without a framework, so that it is never what is slow.

What it streams follows from the prompt: `long`: many chunks as fast as they are taken; `slow`: a chunk every few
milliseconds; anything else: five chunks, each in a write and so in a packet of its own, as a model's come.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from bench.load import on_loop

WORD = "word "
SHORT_CHUNKS, LONG_CHUNKS, SLOW_CHUNKS = 5, 100_000, 200
SLOW_SECONDS = 0.005

_BATCH = 100
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: bytes, reason: bytes) -> bytes:
    head = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"x","choices":[{"index":0,'
    return head + b'"delta":' + delta + b',"finish_reason":' + reason + b"}]}\n\n"


_CHUNK = _framed(_event(b'{"content":"%b"}' % WORD.encode(), b"null"))
_LAST = _framed(_event(b"{}", b'"stop"') + b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection; answers one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by its shape: uvloop's own is no subclass
        self._received = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0)
        if len(body) < length:
            return
        self._received = b""
        self._task = asyncio.create_task(self._stream(body))

    async def _stream(self, body: bytes) -> None:
        if b'"long"' in body:
            await self._long()
            return
        slow = b'"slow"' in body
        self._transport.write(_HEAD)
        for _ in range(SLOW_CHUNKS if slow else SHORT_CHUNKS):
            # What is written without a pause in between, uvloop sends as one packet.
            await asyncio.sleep(SLOW_SECONDS if slow else 0)
            self._transport.write(_CHUNK)
        await asyncio.sleep(0)
        self._transport.write(_LAST)

    async def _long(self) -> None:
        self._transport.write(_HEAD)
        for _ in range(LONG_CHUNKS // _BATCH):
            await self._writable.wait()
            self._transport.write(_CHUNK * _BATCH)
            await asyncio.sleep(0)
        self._transport.write(_LAST)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    on_loop(_serve(int(sys.argv[1])))
