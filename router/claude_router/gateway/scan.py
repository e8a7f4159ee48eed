"""What an answer of the Messages API says that it used, read from its bytes as they pass.

A scanner looks for the one word that only usage has, and parses the few lines with it; it keeps no more than an
unfinished line. It never raises, and what it does not understand it leaves out.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

_USAGE = b'"usage"'
"""In a text it would have backslashes."""
_COUNT = b"message_delta"
"""Once the beginning is known, what else tells usage has this in its type: longer, so that it is found sooner."""
_STOP = b'"message_stop"'
_DELTA = b"event: content_block_delta"
_DELTA_BYTES = 130
"""Of a delta's event, what is not the text."""
_BYTES_A_TOKEN = 4
_SAMPLE_BYTES = 1024
"""Of what comes at once, how much the deltas are counted in: an estimate needs no more."""
_LONGEST_LINE = 64 * 1024
_LARGEST_BODY = 64 * 1024 * 1024
_MOST = 10**9
"""Of tokens in a request. No API says more, but one that is broken would break sums."""


class Counted(NamedTuple):
    """Tokens (and searches) of one request, each counted once: `input` are those that no cache had to do with."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    searches: int = 0
    fast: bool = False
    us: bool = False

    @property
    def prompt(self) -> int:
        """All that the model read."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


class _Creation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _Creation | None = None
    server_tool_use: _ServerTools | None = None
    speed: str | None = None
    inference_geo: str | None = None


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    usage: _Usage | None = None


_EVENT = msgspec.json.Decoder(_Event)
_MESSAGE = msgspec.json.Decoder(_Message)


class Scanner(Protocol):
    """`complete`: all is known that the answer will say. `model` and `message` are what it calls itself."""

    complete: bool
    model: str
    message: str

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        ...

    def end(self) -> None:
        """There are no more."""
        ...

    @property
    def counted(self) -> Counted | None:
        """What is known so far; None: nothing."""
        ...

    @property
    def passed(self) -> int:
        """Of the answer, how many tokens its bytes are, about; of one that has broken off."""
        ...


class SseScanner:
    """Of an event stream."""

    def __init__(self) -> None:
        self.complete = False
        self.model = ""
        self.message = ""
        self._counted: Counted | None = None
        self._begun = False
        self._final = False
        self._rest = b""
        self._skipping = False
        self._size = 0
        self._deltas = 0

    def feed(self, data: bytes) -> None:
        """See Scanner. Costs a search of the bytes or two, and no copy if they end with a line."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(self._rest + data)
            return
        begin = 0
        if self._rest or self._skipping:
            begin = data.find(b"\n") + 1
            if not self._skipping:
                self._lines(self._rest + data[:begin], 0, len(self._rest) + begin)
            self._skipping = False
        self._lines(data, begin, end)
        self._keep(data[end:])

    def _keep(self, rest: bytes) -> None:
        """The beginning of a line. No line with usage is as long as those that are not kept."""
        self._skipping = self._skipping or len(rest) > _LONGEST_LINE
        self._rest = b"" if self._skipping else rest

    def _lines(self, data: bytes, begin: int, end: int) -> None:
        """Whole lines, those of `data[begin:end]`."""
        size = end - begin
        sample = min(size, _SAMPLE_BYTES)
        if not sample:
            return
        self._size += size
        self._deltas += data.count(_DELTA, begin, begin + sample) * size // sample
        while (found := data.find(_COUNT if self._begun else _USAGE, begin, end)) >= 0:
            begin = data.find(b"\n", found) + 1
            self._line(data[data.rfind(b"\n", 0, found) + 1 : begin])
        if self._final and data.find(_STOP, begin, end) >= 0:
            self.complete = True

    def end(self) -> None:
        """See Scanner."""
        if self._rest:
            self.feed(b"\n")

    @property
    def counted(self) -> Counted | None:
        """See Scanner. Of an answer that broke off, the API has only said how it began: the rest is estimated."""
        if self._counted is None or self._final:
            return self._counted
        return self._counted._replace(output=max(self._counted.output, self.passed))

    @property
    def passed(self) -> int:
        """See Scanner."""
        text = (self._size - self._deltas * _DELTA_BYTES) // _BYTES_A_TOKEN
        return max(self._deltas, text) if self._deltas else 0

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        try:
            event = _EVENT.decode(line[5:])
        except (msgspec.MsgspecError, ValueError):
            return
        if event.type == "message_start" and event.message is not None:
            self.model, self.message = event.message.model, event.message.id
            self._take(event.message.usage)
            self._begun = True
        elif event.type == "message_delta" and event.usage is not None:
            self._take(event.usage)
            self._final = True

    def _take(self, usage: _Usage | None) -> None:
        if usage is not None:
            self._counted = _more(self._counted or Counted(), _read(usage))


class JsonScanner:
    """Of an answer in one piece."""

    def __init__(self) -> None:
        self.complete = False
        self.model = ""
        self.message = ""
        self.counted: Counted | None = None
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """See Scanner."""
        if len(self._body) <= _LARGEST_BODY:
            self._body += data

    def end(self) -> None:
        """See Scanner."""
        body, self._body = bytes(self._body), bytearray()
        try:
            message = _MESSAGE.decode(body)
        except (msgspec.MsgspecError, ValueError):
            return
        self.model, self.message = message.model, message.id
        if message.usage is not None:
            self.counted, self.complete = _read(message.usage), True

    @property
    def passed(self) -> int:
        """See Scanner."""
        return len(self._body) // _BYTES_A_TOKEN


def _read(usage: _Usage) -> Counted:
    written = _tokens(usage.cache_creation_input_tokens)
    split = usage.cache_creation or _Creation()
    hour = _tokens(split.ephemeral_1h_input_tokens)
    written = max(written, hour + _tokens(split.ephemeral_5m_input_tokens))
    return Counted(
        input=_tokens(usage.input_tokens),
        output=_tokens(usage.output_tokens),
        cache_read=_tokens(usage.cache_read_input_tokens),
        cache_write_5m=written - hour,
        cache_write_1h=hour,
        searches=_tokens(usage.server_tool_use.web_search_requests) if usage.server_tool_use else 0,
        fast=usage.speed == "fast",
        us=usage.inference_geo == "us",
    )


def _tokens(count: int | None) -> int:
    return min(max(0, count or 0), _MOST)


def _more(before: Counted, after: Counted) -> Counted:
    """Counts are cumulative, so the larger ones hold. A delta that splits its cache writes less keeps the split."""
    merged = Counted._make(max(pair) for pair in zip(before, after, strict=True))
    written = max(before.cache_write_5m + before.cache_write_1h, after.cache_write_5m + after.cache_write_1h)
    return merged._replace(cache_write_5m=written - merged.cache_write_1h)
