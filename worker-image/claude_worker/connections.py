"""HTTP/1.1 connections that anybody may open: what a head may hold, and how long each part of a request may take.

uvicorn bounds neither, so half a request would be held for ever. Refusals that come before any application sees the
request are error objects, too.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from claude_worker.bounds import Bounds
from claude_worker.openai.errors import ApiError

_LINGER_SECONDS = 2.0
"""After a refusal, what is still coming is read and thrown away: a reset would take the answer away with it."""


_AT_ONCE = struct.pack("ii", 1, 0)

Form = Callable[[ApiError, bytes], bytes]
"""An error's body, for a request of that target (which may be empty, or only its beginning)."""


def plain(error: ApiError, _: bytes) -> bytes:
    """The error as OpenAI's API has it."""
    return error.body()


def connections(form: Form = plain, bounds: Bounds | None = None) -> type[asyncio.Protocol]:
    """The protocol for `uvicorn.Config(http=…)`."""

    class Bound(_Connection):
        FORM = (form,)
        BOUNDS = bounds or Bounds()

    return Bound


class _TooLarge(Exception):
    """Out of a callback of the parser, to stop it."""


class _Connection(HttpToolsProtocol):
    FORM: ClassVar[tuple[Form]]
    """In a tuple, since a function would be a method."""
    BOUNDS: ClassVar[Bounds]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part = "idle"
        """What the client owes: a request (`idle`), the rest of its `head` or `body`, what nobody reads any more of a
        body (`rest`), or nothing."""
        self._since = self.loop.time()
        self._size = 0
        self._held = 0
        self._count = 0
        self._stray = 0
        self._progress = False
        self._over = False
        self._lost = False
        self._running: RequestResponseCycle | None = None
        self._refusal: ApiError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # -- what comes --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = self._lost = True
        self._part = ""
        self._watch()
        if self._unread is not None:
            self._unread.cancel()
        self._tell_that_the_client_left()  # uvicorn tells only the last of several requests
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._progress = False
        super().data_received(data)
        if self._over:
            return
        if not self._progress:
            self._stray += len(data)
            if self._stray > self.BOUNDS.head_bytes:
                self._refuse(_too_large(self.BOUNDS))
                return
        if not self._part and not self._answering():
            self._owe("idle")  # a late end of a body, or an empty line: it has stopped uvicorn's own clock
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._held = self._count = self._stray = 0
        if self._part == "idle":
            self._part = "head"  # its clock runs already
        else:
            self._owe("head")

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._hold(len(url), 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._hold(len(name) + len(value) + 4, 1)
        if self._part == "head":  # a trailer would pass for a header, after the headers have been judged
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._progress = True
        self._held = self._stray = 0
        self._owe("body")
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser will read nothing more

    def on_body(self, body: bytes) -> None:
        self._progress = True
        self._stray = 0
        self._size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress = True
        self._part = ""
        super().on_message_complete()

    def _hold(self, size: int, count: int) -> None:
        self._held += size
        self._count += count
        if self._held > self.BOUNDS.head_bytes or self._count > self.BOUNDS.headers:
            self._refusal = _too_large(self.BOUNDS)
            raise _TooLarge

    def _unsupported_upgrade_warning(self) -> None:
        """Nobody needs to know."""

    # -- what does not come ------------------------------------------------------------------------------------------

    def _owe(self, part: str) -> None:
        self._part = part
        self._since = self.loop.time()
        self._size = 0

    def _watch(self) -> None:
        """A clock runs exactly while the client owes something; most requests come whole, and need none."""
        if not self._part:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_at(self._due(), self._late)

    def _due(self) -> float:
        bounds = self.BOUNDS
        match self._part:
            case "body":
                return self._since + bounds.body_seconds + self._size / bounds.body_rate
            case "rest":
                return self._since + bounds.unread_seconds
            case _:
                return self._since + bounds.head_seconds

    def _late(self) -> None:
        self._timer = None
        if self.flow.read_paused or (self._part == "body" and self.cycle.waiting_for_100_continue):
            self._owe(self._part)  # it is we who do not read, or have not asked for it yet
        if self.loop.time() < self._due():
            self._watch()
        elif self._part in ("head", "body"):
            self._refuse(_too_slow(self._part))
        else:
            self._end()

    # -- the answer --------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def on_response_complete(self) -> None:
        answered = self._running
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_to_be_read()
        elif self._part == "body" and answered is self.cycle:
            self._owe("rest")
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_to_be_read()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None and not self._over and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_to_be_read()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._expect_to_be_read()

    def _expect_to_be_read(self) -> None:
        """A transport, even a closed one, would stay as long as its client does not take what was written."""
        if self._unread is None and not self._lost and self.BOUNDS.write_seconds < math.inf:
            self._unread = self.loop.call_later(self.BOUNDS.write_seconds, self._reset)

    def _reset(self) -> None:
        """Without this option the kernel would go on where we stop: it keeps what a client does not take."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or ApiError(400, "This is no valid HTTP request.", code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        """The last that is said on this connection, if it can still be said."""
        running = self._running
        if running is not None and not running.response_complete and (running.response_started or self.pipeline):
            self._end()
            return
        body = self.FORM[0](error, getattr(self, "url", b""))
        headers = {
            "content-type": "application/json", "connection": "close", "content-length": str(len(body)), **error.headers
        }  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body)
        self._end(linger=True)

    def _end(self, *, linger: bool = False) -> None:
        """Nothing more is read, and the application, if it runs, is told that its client has left."""
        self._over = True
        self._part = ""
        self._watch()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._tell_that_the_client_left()
        if not linger or not self.transport.can_write_eof():
            self.transport.close()
            self._expect_to_be_read()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        if self._unread is not None:
            self._unread.cancel()
        self._unread = self.loop.call_later(_LINGER_SECONDS, self._reset)

    def _tell_that_the_client_left(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.flow.resume_writing()


def _too_large(bounds: Bounds) -> ApiError:
    message = f"The request's head has more than {bounds.head_bytes} bytes or {bounds.headers} headers."
    return ApiError(431, message, code="head_too_large", kind="invalid_request_error", retry=False)


def _too_slow(part: str) -> ApiError:
    return ApiError(408, f"The request's {part} did not come in time.", code="request_timeout", retry=True)
