"""AWS's event stream, as Server-Sent Events."""

from __future__ import annotations

import binascii
import logging
import struct
from typing import Any

import aiohttp
import msgspec

from claude_router.gateway.cloud import error_body
from claude_router.gateway.upstream import Content

log = logging.getLogger(__name__)

_TYPES = {
    "internalserverexception": "api_error", "modelstreamerrorexception": "api_error",
    "validationexception": "invalid_request_error", "throttlingexception": "rate_limit_error",
    "modeltimeoutexception": "timeout_error", "serviceunavailableexception": "overloaded_error",
}  # fmt: skip


class _Chunk(msgspec.Struct):
    bytes: str


class _Event(msgspec.Struct):
    type: str


class _Problem(msgspec.Struct):
    message: str = ""


_CHUNK = msgspec.json.Decoder(_Chunk)
_EVENT = msgspec.json.Decoder(_Event)
_PROBLEM = msgspec.json.Decoder(_Problem)


class EventStream:
    """A Content over another one. What is no stream of AWS's raises aiohttp.ClientPayloadError, as one cut off does."""

    def __init__(self, frames: Content) -> None:
        self._frames = frames
        self._decoder = FrameDecoder()
        self._over = False

    async def readany(self) -> bytes:
        """See Content."""
        while True:
            data = await self._frames.readany()
            events = self._decoder.feed(data)
            over = self._frames.at_eof()
            # What is whole goes first, since it may be what is counted; the next call says what is wrong with the rest.
            if not events:
                self._decoder.check(over=over)
            self._over = over and self._decoder.sound
            if events or self._over:
                return events

    def at_eof(self) -> bool:
        """See Content."""
        return self._over


class FrameDecoder:
    """Frames in, events out; each frame's checksum is checked."""

    def __init__(self) -> None:
        """Raises ImportError."""
        from botocore.eventstream import EventStreamBuffer, ParserError  # noqa: PLC0415  # only Bedrock needs botocore

        self._buffer: Any = EventStreamBuffer()
        self._parser_error: type[Exception] = ParserError
        self._fed = 0
        self._parsed = 0
        self._problem = ""

    def feed(self, data: bytes) -> bytes:
        """The events that are whole now; see `check` for what comes after them."""
        if not data or self._problem:
            return b""
        self._fed += len(data)
        self._buffer.add_data(data)
        events = []
        try:
            for frame in self._buffer:
                self._parsed += frame.prelude.total_length
                events.append(_event(frame.headers, frame.payload))
        except (self._parser_error, msgspec.MsgspecError, struct.error, ValueError, KeyError) as error:
            self._problem = f"not an event stream: {type(error).__name__}"
        return b"".join(events)

    @property
    def sound(self) -> bool:
        """Whether it may end here."""
        return not self._problem and self._fed == self._parsed

    def check(self, *, over: bool) -> None:
        """Raises aiohttp.ClientPayloadError after what is no frame, and at the end within one."""
        if self._problem:
            raise aiohttp.ClientPayloadError(self._problem)
        if over and not self.sound:
            raise aiohttp.ClientPayloadError("the event stream ends within a frame")


def _event(headers: dict[str, Any], payload: bytes) -> bytes:
    kind = headers.get(":message-type")
    if kind == "event":
        if headers.get(":event-type") != "chunk":
            return b""
        data = binascii.a2b_base64(_CHUNK.decode(payload).bytes)
        if b"\n" in data:  # which would end an SSE field
            data = msgspec.json.format(data, indent=-1)
        return b"event: %b\ndata: %b\n\n" % (_EVENT.decode(data).type.encode(), data)
    if kind == "exception":
        name, message = str(headers.get(":exception-type", "")), _PROBLEM.decode(payload or b"{}").message
    else:
        name, message = str(headers.get(":error-code", "")), str(headers.get(":error-message", ""))
    log.warning("Bedrock ended a stream with an error", extra={"fields": {"reason": name[:100]}})
    body = error_body(_TYPES.get(name.lower(), "api_error"), message or name or "Bedrock's stream failed.")
    return b"event: error\ndata: %b\n\n" % body
