"""Bytes on their way to one client: filled by callbacks, emptied by the request's handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from claude_worker.openai.errors import ApiError

_FULL = 4 * 1024 * 1024


class Outbox:
    """What one client has yet to be sent, and how it ends.

    Everything put in between two takes leaves as one write. With `keepalive` seconds, silence of that length puts an
    sign of life in (an SSE comment).
    """

    def __init__(self, keepalive: float | None = None, sign_of_life: bytes = b": keepalive\n\n") -> None:
        self._ready: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._keepalive = keepalive
        self._sign_of_life = sign_of_life
        self._last = self._loop.time()
        self._timer = self._loop.call_later(keepalive, self._tick) if keepalive else None
        self.closed = False
        self.error: ApiError | None = None
        self.on_emptied: Callable[[], None] | None = None

    @property
    def full(self) -> bool:
        """A slow client has so much waiting that its source should pause."""
        return self._size > _FULL

    def put(self, data: bytes) -> None:
        """Add bytes; dropped when the outbox is closed."""
        if data and not self.closed:
            self._ready.append(data)
            self._size += len(data)
            self._last = self._loop.time()
            self._wake.set()

    def close(self, error: ApiError | None = None) -> None:
        """No more will come. Only the first call counts."""
        if not self.closed:
            self.closed = True
            self.error = error
            self._wake.set()
            if self._timer:
                self._timer.cancel()

    def _tick(self) -> None:
        assert self._keepalive is not None, "only set with a keepalive"
        due = self._last + self._keepalive
        if self._loop.time() >= due:
            self.put(self._sign_of_life)
            due = self._last + self._keepalive
        self._timer = self._loop.call_at(due, self._tick)

    async def take(self) -> bytes:
        """All that is ready, as soon as there is anything; b"" once it is closed and empty."""
        while not self._ready:
            if self.closed:
                return b""
            self._wake.clear()
            await self._wake.wait()
        data = self._ready[0] if len(self._ready) == 1 else b"".join(self._ready)
        self._ready.clear()
        self._size = 0
        if self.on_emptied:
            self.on_emptied()
        return data
