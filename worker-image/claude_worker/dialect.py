"""The APIs that conversations can be had through: what differs between them, each in one object.

Router and worker find the dialect of a request's path here, and speak it: requests, answers, errors, and by which last
bytes a stream is known to be whole.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

from claude_worker.anthropic import errors as anthropic_errors
from claude_worker.anthropic import messages as anthropic_messages
from claude_worker.anthropic.messages import MessagesRequest
from claude_worker.anthropic.writer import PING, MessagesWriter
from claude_worker.events import Writer
from claude_worker.openai import fields, responses
from claude_worker.openai.chunks import DONE, KEEPALIVE, ChatWriter, Head
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest
from claude_worker.openai.request import parse as parse_chat
from claude_worker.openai.responses import ResponsesRequest
from claude_worker.openai.responses_writer import ResponsesWriter

_TIP = re.compile(rb"\n: tip ([0-9a-f]{32})\n\n")
_TIP_LENGTH = len(b": tip \n\n") + 32
LAST = 96
"""So many of a stream's last bytes show whether it is whole, and its tip."""


def is_whole(last: bytes, ends: tuple[bytes, ...]) -> bool:
    """Whether a stream whose last bytes these are has one of these ends; a tip may follow it."""
    return last.endswith(ends) or (last[-_TIP_LENGTH:].startswith(b": tip ") and last[:-_TIP_LENGTH].endswith(ends))


def tip_in(last: bytes) -> str:
    """The tip that a stream told in its last bytes, or "". What a model says cannot look like it, being JSON."""
    found = _TIP.search(last)
    return found[1].decode() if found else ""


class Dialect(Protocol):
    """One API."""

    path: str
    keepalive: bytes
    """What a stream gets while it waits; before its beginning, too."""
    ends: tuple[bytes, ...]
    """How a stream ends that is whole, be it by an error."""

    def parse(self, body: bytes) -> ChatRequest:
        """Decode and check a request. Raises ApiError (400)."""
        ...

    def ignored(self, request: ChatRequest, *, own_tools_only: bool) -> list[str]:
        """What the client sent, in this API's words, and what has no effect. `request` is one that `parse` gave."""
        ...

    def writer(self, head: Head, request: ChatRequest) -> Writer:
        """Writes one answer to `request`, which is one that `parse` gave."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The JSON body of an error."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The end of a stream of which nothing is known but that it has begun."""
        ...


class ChatDialect:
    """OpenAI's chat completions."""

    path = "/v1/chat/completions"
    keepalive = KEEPALIVE
    ends: tuple[bytes, ...] = (DONE,)

    def parse(self, body: bytes) -> ChatRequest:
        """See Dialect."""
        return parse_chat(body)

    def ignored(self, request: ChatRequest, *, own_tools_only: bool) -> list[str]:
        """See Dialect."""
        return fields.ignored(request, own_tools_only=own_tools_only)

    def writer(self, head: Head, request: ChatRequest) -> Writer:
        """See Dialect."""
        return ChatWriter(head, include_usage=request.include_usage)

    def error(self, error: ApiError) -> bytes:
        """See Dialect."""
        return error.body()

    def failure(self, error: ApiError) -> bytes:
        """See Dialect."""
        return error.frames()


class ResponsesDialect:
    """OpenAI's responses."""

    path = "/v1/responses"
    keepalive = KEEPALIVE
    ends: tuple[bytes, ...] = (
        b'"type":"response.completed"}\n\n',
        b'"type":"response.failed"}\n\n',
        b'"type":"response.incomplete"}\n\n',
        b'"type":"error"}\n\n',
    )

    def parse(self, body: bytes) -> ChatRequest:
        """See Dialect."""
        return responses.parse(body)

    def ignored(self, request: ChatRequest, *, own_tools_only: bool) -> list[str]:
        """See Dialect."""
        assert isinstance(request, ResponsesRequest)
        return responses.ignored(request, own_tools_only=own_tools_only)

    def writer(self, head: Head, request: ChatRequest) -> Writer:
        """See Dialect."""
        assert isinstance(request, ResponsesRequest)
        return ResponsesWriter(head, request)

    def error(self, error: ApiError) -> bytes:
        """See Dialect."""
        return error.body()

    def failure(self, error: ApiError) -> bytes:
        """See Dialect. Both as OpenAI documents it and as its SDKs raise it, which look for `error`."""
        flat = {"message": error.message, "code": error.code, "param": error.param}
        event = {"sequence_number": 0, **flat, "error": {**flat, "type": error.kind}, "type": "error"}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


class MessagesDialect:
    """Anthropic's messages."""

    path = "/v1/messages"
    keepalive = PING
    ends: tuple[bytes, ...] = (b'data: {"type":"message_stop"}\n\n', b'"type":"error"}\n\n')

    def parse(self, body: bytes) -> ChatRequest:
        """See Dialect."""
        return anthropic_messages.parse(body)

    def ignored(self, request: ChatRequest, *, own_tools_only: bool) -> list[str]:
        """See Dialect."""
        assert isinstance(request, MessagesRequest)
        return anthropic_messages.ignored(request, own_tools_only=own_tools_only)

    def writer(self, head: Head, request: ChatRequest) -> Writer:
        """See Dialect."""
        assert isinstance(request, MessagesRequest)
        return MessagesWriter(head, request)

    def error(self, error: ApiError) -> bytes:
        """See Dialect."""
        return anthropic_errors.body(error)

    def failure(self, error: ApiError) -> bytes:
        """See Dialect."""
        return anthropic_errors.frame(error)


CHAT: Dialect = ChatDialect()
RESPONSES: Dialect = ResponsesDialect()
MESSAGES: Dialect = MessagesDialect()
DIALECTS: tuple[Dialect, ...] = (CHAT, RESPONSES, MESSAGES)
