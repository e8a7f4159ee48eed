"""Between blocking work in threads and HTTP bodies on the event loop: piece by piece, never faster than the other end.

No piece is kept longer than until it is taken, so a body of any size needs the memory of one piece.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from claude_worker.openai.errors import ApiError, bad_request

log = logging.getLogger(__name__)

T = TypeVar("T")

STALL_SECONDS = 120.0
"""How long the other end may take for one piece: a worker with an open transfer is busy, and is not suspended."""


async def in_thread(work: Callable[[], T]) -> T:
    """Its result. When this is cancelled, the work is still waited for: it uses what the caller is about to close."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _done(task)
        raise


async def _done(task: asyncio.Future[Any]) -> None:
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # retrieved


async def steps(pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
    """What the generator yields, each step in a thread. It is closed at the end, whatever ends it."""
    try:
        while piece := await in_thread(lambda: next(pieces, b"")):
            yield piece
    finally:
        await in_thread(pieces.close)


async def received(request: Request, stall: float = STALL_SECONDS) -> AsyncGenerator[bytes, None]:
    """The request's body. Raises ApiError (400, 408) when it does not come to its end."""
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(stall):
                piece = await anext(stream, None)
            if piece is None:
                return
            if piece:
                yield piece
    except ClientDisconnect:
        raise bad_request("The body ended before it was complete.", code="incomplete_body") from None
    except TimeoutError:
        raise ApiError(408, f"Nothing of the body came for {stall:g} s.", code="incomplete_body") from None


class Incoming:
    """A body for one other thread to read, which waits while nothing comes. Made on the event loop."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._receiving: asyncio.Task[Any] | None = None
        self._stopped = False

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the body's end. Raises what the body raises, and ClientDisconnect."""
        while len(self._held) < size and (piece := self._next()):
            self._held += piece
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    def _next(self) -> bytes:
        try:
            return asyncio.run_coroutine_threadsafe(self._receive(), self._loop).result()
        except concurrent.futures.CancelledError:
            raise ClientDisconnect from None

    async def _receive(self) -> bytes:
        if self._stopped:
            raise ClientDisconnect
        # Known here and not to the other thread, which may not have its future yet when it is to be cancelled.
        self._receiving = asyncio.current_task()
        try:
            return await anext(self._pieces, b"")
        finally:
            self._receiving = None

    def stop(self) -> None:
        """Let the reader wait no longer. On the event loop."""
        self._stopped = True
        if self._receiving is not None:
            self._receiving.cancel()


async def read_in_thread(incoming: Incoming, work: Callable[[], T]) -> T:
    """The result of work that reads the body; when this is cancelled, the work ends first, by an exception.

    In a thread of its own: one that waits for a slow client must not be one that others wait for.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as own:
        task = asyncio.get_running_loop().run_in_executor(own, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            incoming.stop()
            await _done(task)
            raise


class Download(Response):
    """A body that is made while it is sent. `held` is let go when it has been, or when the client has left."""

    def __init__(
        self,
        pieces: Generator[bytes, None, None],
        *,
        headers: Mapping[str, str],
        held: AsyncExitStack,
        stall: float = STALL_SECONDS,
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]  # that of no body at all
        self.headers.update(headers)
        self._pieces = pieces
        self._held = held
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn takes what is sent to a client that has left, and says nothing.
        leaving = asyncio.create_task(_left(receive))
        try:
            async with self._held, aclosing(steps(self._pieces)) as pieces:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for piece in pieces:
                    async with asyncio.timeout(self._stall):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if leaving.done():
                        return
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.warning("a download was given up: the client took nothing for %g s", self._stall)
        finally:
            leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
