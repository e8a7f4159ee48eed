"""Official SDKs at a dialect without any server: their requests are parsed, their answers written, by the dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import httpx2

from claude_worker.dialect import Dialect
from claude_worker.events import Arguments, Begin, End, Event, Reasoning, Text, ToolCall, UsageView
from claude_worker.openai.chunks import Head
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest

TURN = "0123456789abcdef" * 2
TIP = "fedcba9876543210" * 2
HEAD = Head(TURN, 1_700_000_000, "claude-code", "my talk/1")
USAGE = UsageView(prompt=100, completion=20, cached=60, cache_written=10, reasoning=5)
END = End("stop", USAGE, 0.25, "claude-session", TIP)
TALK: list[Event] = [
    Begin(), Reasoning("let me "), Reasoning("think"), Text("It is "), Text("“sunny”\n"), Reasoning("Bash: ls"),
    Text("today."), END,
]  # fmt: skip
CALLS: list[Event] = [
    Begin(), Text("I look."), ToolCall(0, "toolu_1", "weather"), Arguments(0, '{"city":'), Arguments(0, ' "Oslo"}'),
    ToolCall(1, "toolu_2", "now"), End("tool_calls", USAGE, 0.25, "claude-session", TIP),
]  # fmt: skip
LOST = ApiError(502, "The worker was lost.", code="worker_lost", retry=False)


class Service:
    """Answers every request with the same events. `requests` is what was asked, as the dialect read it."""

    def __init__(self, dialect: Dialect, events: Sequence[Event], failure: ApiError | None = None) -> None:
        self._dialect = dialect
        self._events = events
        self._failure = failure
        self.requests: list[ChatRequest] = []
        self.client = httpx2.Client(transport=httpx2.MockTransport(self._answer))

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == self._dialect.path
        try:
            asked = self._dialect.parse(request.read())
        except ApiError as error:
            return httpx2.Response(error.status, content=self._dialect.error(error), headers=error.headers)
        self.requests.append(asked)
        writer = self._dialect.writer(HEAD, asked)
        if not asked.stream:
            return httpx2.Response(200, json=json.loads(writer.whole(self._events)))
        pieces = [writer.keepalive, *(writer.feed(event) for event in self._events)]
        if self._failure:
            pieces.append(writer.failed(self._failure))
        return httpx2.Response(200, content=b"".join(pieces), headers={"content-type": "text/event-stream"})


def frames(stream: bytes) -> list[dict[str, Any]]:
    """The data of every event of a stream, whose event lines must say the same type."""
    found = []
    for frame in stream.split(b"\n\n"):
        if match := re.fullmatch(rb"event: (\S+)\ndata: (.*)", frame):
            data = json.loads(match[2])
            assert data["type"] == match[1].decode()
            found.append(data)
        else:
            assert not frame or frame.startswith(b":")
    return found
