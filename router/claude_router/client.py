"""The client as the server sees it: its request's body, whether it is still there, and what keeps it patient."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType

from starlette.types import Receive

from claude_router.answer import Answer
from claude_router.errors import body_too_large
from claude_worker.openai.errors import bad_request


class ClientLeft(Exception):
    """The client closed its connection before its request was complete."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The request's body. Raises ApiError (413) as soon as it is known to be over `limit` bytes, and ClientLeft."""
    announced = headers.get(b"content-length")
    if announced is not None and _length(announced) > limit:
        raise body_too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise body_too_large(limit)
        return body
    pieces = bytearray(body)
    while message.get("more_body", False):
        if len(pieces) > limit:
            raise body_too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        pieces += message.get("body", b"")
    if len(pieces) > limit:
        raise body_too_large(limit)
    return bytes(pieces)


def _length(announced: bytes) -> int:
    try:
        return int(announced)
    except ValueError:
        raise bad_request("The header Content-Length is not a number.", code="invalid_content_length") from None


class ClientWatch:
    """Cancels its block as soon as the client leaves; `left` says that this is what happened.

    The request's body must have been read: from then on ASGI has nothing to receive but `http.disconnect`.
    """

    def __init__(self, receive: Receive) -> None:
        self.left = False
        self._receive = receive

    async def __aenter__(self) -> ClientWatch:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # At once: uvicorn says `http.disconnect` after a complete answer as well.
        self._watcher.cancel()
        # Another cancellation (the server's own shutdown) may have come as well: that one goes on.
        return self.left and self._task.uncancel() == 0


class Keepalives:
    """Comments into a stream that has to wait, every `interval` seconds from the start until `stop`."""

    def __init__(self, answer: Answer, interval: float, sent: Callable[[], None]) -> None:
        self._answer = answer
        self._interval = interval
        self._sent = sent
        self._task: asyncio.Task[None] | None = None
        self._stopped: asyncio.Event | None = None
        self._timer = asyncio.get_running_loop().call_later(interval, self._start)

    def _start(self) -> None:
        self._stopped = asyncio.Event()
        self._task = asyncio.create_task(self._run(self._stopped))

    async def _run(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            await self._answer.keepalive()
            self._sent()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), self._interval)

    async def stop(self) -> None:
        """Return when nothing more will be sent. A comment is never cut off: the task ends, it is not cancelled."""
        self._timer.cancel()
        if self._task is not None and self._stopped is not None:
            self._stopped.set()
            await self._task
