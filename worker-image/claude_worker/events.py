"""What an answer consists of, before any API's wire format: what the translator says and the writers put into bytes.

A turn keeps its events, so that a client that comes back gets the same answer from its start, in the form it asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

from claude_worker.openai.errors import ApiError

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class UsageView(msgspec.Struct, frozen=True):
    """Tokens of one answer; `prompt` includes the cached ones."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0


class Begin(msgspec.Struct, frozen=True):
    """The model began to answer; nothing of it can be shown yet."""


class Text(msgspec.Struct, frozen=True):
    """Some more of the answer's text."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """Some more of what the model thinks, or of what its tools do."""

    text: str


class ToolCall(msgspec.Struct, frozen=True):
    """A call of one of the client's tools begins. `index` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str


class Arguments(msgspec.Struct, frozen=True):
    """Some more of a call's arguments, as JSON text."""

    index: int
    fragment: str


class End(msgspec.Struct, frozen=True):
    """The answer is whole."""

    reason: FinishReason
    usage: UsageView
    cost_usd: float = 0.0
    claude_session_id: str = ""
    tip: str = ""
    """Hash of the history that this answer ends (`history.extend`), by which a router finds the conversation again."""


Event = Begin | Text | Reasoning | ToolCall | Arguments | End


class Writer(Protocol):
    """One API's wire format for one answer. Made anew for each client that reads it."""

    keepalive: bytes

    def feed(self, event: Event) -> bytes:
        """The SSE bytes for an event; empty when this API shows nothing of it."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """The end of a stream that has begun and that fails."""
        ...

    def whole(self, events: Iterable[Event]) -> bytes:
        """The JSON body for a complete answer."""
        ...

    def error_body(self, error: ApiError) -> bytes:
        """The JSON body for a request that failed before it began to be answered."""
        ...
