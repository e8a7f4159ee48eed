"""The bytes of an answer in Anthropic's Messages API: its events as a stream, or the whole message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from claude_worker.anthropic import errors
from claude_worker.anthropic.messages import MessagesRequest
from claude_worker.events import Arguments, End, Event, Reasoning, Text, ToolCall, UsageView
from claude_worker.openai.chunks import Head
from claude_worker.openai.errors import ApiError

_encode = msgspec.json.encode
_Kind = Literal["text", "thinking", "tool_use"]

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA: dict[_Kind, tuple[str, bytes]] = {
    "text": ("text_delta", b'"text":'),
    "thinking": ("thinking_delta", b'"thinking":'),
    "tool_use": ("input_json_delta", b'"partial_json":'),
}
_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}


class _Block:
    """One content block in the making."""

    def __init__(self, kind: _Kind, index: int, call: ToolCall | None) -> None:
        self.kind = kind
        self.index = index
        self.call = call
        self.pieces: list[str] = []
        name, field = _DELTA[kind]
        head = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":"{name}",'
        self.delta = b"event: content_block_delta\ndata: " + head.encode() + field

    def view(self, text: str) -> dict[str, Any]:
        """The block as the client sees it, with that text."""
        if self.kind == "text":
            return {"type": "text", "text": text}
        if self.kind == "thinking":
            return {"type": "thinking", "thinking": text, "signature": ""}
        assert self.call is not None
        return {"type": "tool_use", "id": self.call.id, "name": self.call.name, "input": _object(text)}


class MessagesWriter:
    """Writes one message. What the model thinks is told when the request turns `thinking` on."""

    keepalive = PING

    def __init__(self, head: Head, request: MessagesRequest) -> None:
        self._thoughts = request.source.thoughts
        self._message: dict[str, Any] = {
            "id": f"msg_{head.id}", "type": "message", "role": "assistant", "model": head.model, "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": _usage(UsageView()),
        }  # fmt: skip
        self._begun = False
        self._blocks: list[_Block] = []
        self._calls: dict[int, _Block] = {}
        self._open: _Block | None = None

    def feed(self, event: Event) -> bytes:
        """See Writer."""
        begun = b"" if self._begun else self._begin()
        if isinstance(event, Text):
            return begun + self._say("text", event.text)
        if isinstance(event, Arguments):
            return begun + _more(self._calls[event.index], event.fragment)
        if isinstance(event, Reasoning):
            return begun + (self._say("thinking", event.text) if self._thoughts else b"")
        if isinstance(event, ToolCall):
            opened = self._close() + self._add("tool_use", event)
            self._calls[event.index] = self._blocks[-1]
            return begun + opened
        if isinstance(event, End):
            return begun + self._close() + _end(event)
        return begun

    def failed(self, error: ApiError) -> bytes:
        """See Writer."""
        return errors.frame(error)

    def whole(self, events: Iterable[Event]) -> bytes:
        """See Writer."""
        for event in events:
            if isinstance(event, End):
                self._message |= {
                    "stop_reason": _REASONS[event.reason], "usage": _usage(event.usage), "x_claude": _extra(event),
                }  # fmt: skip
                break
            self.feed(event)
        content = [block.view("".join(block.pieces)) for block in self._blocks]
        return _encode({**self._message, "content": content})

    def error_body(self, error: ApiError) -> bytes:
        """See Writer."""
        return errors.body(error)

    # -- events --------------------------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        self._begun = True
        return _event("message_start", {"message": self._message})

    def _say(self, kind: _Kind, text: str) -> bytes:
        if self._open is not None and self._open.kind == kind:
            return _more(self._open, text)
        opened = self._close() + self._add(kind)
        return opened + _more(self._blocks[-1], text)

    def _add(self, kind: _Kind, call: ToolCall | None = None) -> bytes:
        block = self._open = _Block(kind, len(self._blocks), call)
        self._blocks.append(block)
        return _event("content_block_start", {"index": block.index, "content_block": block.view("")})

    def _close(self) -> bytes:
        """The end of the block that is being written."""
        block, self._open = self._open, None
        return b"" if block is None else _event("content_block_stop", {"index": block.index})


def _more(block: _Block, text: str) -> bytes:
    block.pieces.append(text)
    return block.delta + _encode(text) + b"}}\n\n"


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **fields}) + b"\n\n"


def _end(end: End) -> bytes:
    delta = {"stop_reason": _REASONS[end.reason], "stop_sequence": None}
    told = _event("message_delta", {"delta": delta, "usage": _usage(end.usage), "x_claude": _extra(end)})
    return told + (b": tip " + end.tip.encode() + b"\n\n" if end.tip else b"") + _STOP


def _extra(end: End) -> dict[str, Any]:
    return {"cost_usd": end.cost_usd, "session_id": end.claude_session_id}


def _usage(usage: UsageView) -> dict[str, Any]:
    return {
        "input_tokens": max(0, usage.prompt - usage.cached - usage.cache_written),
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def _object(arguments: str) -> dict[str, Any]:
    """A call's arguments; empty when the model was cut off inside them."""
    try:
        found = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
