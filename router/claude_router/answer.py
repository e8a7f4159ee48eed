"""An answer on its way to the client: JSON or an event stream, begun at most once, ended exactly once.

It knows how much has gone out, so that an error always takes the form that still fits: an HTTP status with an error
object before the beginning, the end of a failed stream after it; both as the request's API has them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.types import Send

from claude_worker.dialect import CHAT, LAST, Dialect, is_whole, tip_in
from claude_worker.openai.errors import ApiError

HeaderList = list[tuple[bytes, bytes]]

_STREAM_HEADERS: HeaderList = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx, when it is in front, would otherwise hold the stream back
]


class Answer:
    """The client's end of one request.

    `status` is what went out as HTTP status (0: nothing yet), `code` the error's code if there was one, `first_byte`
    the time (`time.perf_counter`) of the first byte of content, `told_tip` the tip that came in a header, `tail` the
    last bytes of the body, LAST or more of them.
    """

    __slots__ = ("_keep", "_send", "code", "dialect", "first_byte", "headers", "status", "tail", "told_tip")

    def __init__(self, send: Send, dialect: Dialect = CHAT, *, keep: int = LAST) -> None:
        """`keep`: how many bytes `tail` may have."""
        self._send = send
        self._keep = keep
        self.tail = b""
        self.dialect = dialect
        self.told_tip = ""
        self.headers: HeaderList = []
        self.status = 0
        self.code = ""
        self.first_byte = 0.0

    @property
    def begun(self) -> bool:
        return self.status != 0

    def completes(self, data: bytes = b"") -> bool:
        """Whether the stream's own end has gone out once `data` has."""
        return is_whole(self.tail + data[-LAST:], self.dialect.ends)

    @property
    def tip(self) -> str:
        """Hash of the history that the whole answer ended, or "" when the worker told none."""
        return self.told_tip or (tip_in(self.tail) if self.completes() else "")

    async def begin(self, status: int, headers: HeaderList) -> None:
        """Send status and headers, this answer's own headers added."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers + self.headers})

    async def keepalive(self) -> None:
        """Something that means nothing; begins the stream if nothing has been sent."""
        if not self.begun:
            await self.begin(200, _STREAM_HEADERS)
        await self._send({"type": "http.response.body", "body": self.dialect.keepalive, "more_body": True})

    async def chunk(self, data: bytes, *, more: bool = True) -> None:
        """Some bytes of the body, as they came. `more=False` ends the answer."""
        if not self.first_byte:
            self.first_byte = time.perf_counter()
        # Not parsing: only the last few bytes are kept, to know whether a broken stream broke inside a frame.
        keep = self._keep
        self.tail = data[-keep:] if len(data) >= keep else (self.tail + data)[-keep:]
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Begin and end with a body that is known."""
        await self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.chunk(body, more=False)

    async def fail(self, error: ApiError) -> None:
        """End with an error, in the form that still fits."""
        self.code = error.code or error.kind
        if self.begun:
            broken = bool(self.tail) and not self.tail.endswith(b"\n\n")
            await self.chunk((b"\n\n" if broken else b"") + self.dialect.failure(error), more=False)
            return
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        await self.whole(error.status, [(b"content-type", b"application/json"), *headers], self.dialect.error(error))
