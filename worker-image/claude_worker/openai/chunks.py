"""Chat completion objects: the bytes of SSE chunks and of whole answers.

Shapes: OpenAI's chat completion reference. `reasoning_content` is the field that the AI SDK's openai-compatible
provider (opencode) reads reasoning from; `x_claude` is our own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from claude_worker.events import Arguments, End, Event, Reasoning, Text, ToolCall, UsageView
from claude_worker.openai.errors import ApiError

_encode = msgspec.json.encode

KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"
_TAIL = b',"finish_reason":null}]}\n\n'
_PART_TAIL = b"}" + _TAIL


class Head(msgspec.Struct, frozen=True):
    """What an answer's objects are headed with; `id` is the turn's (32 hexadecimal digits)."""

    id: str
    created: int
    model: str
    conversation: str = ""


def usage_object(usage: UsageView) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_written},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _extra(end: End) -> dict[str, Any]:
    return {"cost_usd": round(end.cost_usd, 6), "session_id": end.claude_session_id}


class ChatWriter:
    """Encodes one chat completion. The unchanging part of each chunk is built once."""

    keepalive = KEEPALIVE

    def __init__(self, head: Head, *, include_usage: bool) -> None:
        self._head: dict[str, Any] = {"id": f"chatcmpl-{head.id}", "created": head.created, "model": head.model}
        self._include_usage = include_usage
        self._bare = b"data: " + _encode({**self._head, "object": "chat.completion.chunk"})[:-1]
        self._delta = self._bare + b',"choices":[{"index":0,"delta":'
        self._content = self._delta + b'{"content":'

    def feed(self, event: Event) -> bytes:
        """The chunks for an event."""
        if isinstance(event, Text):
            return self._content + _encode(event.text) + _PART_TAIL
        if isinstance(event, Reasoning):
            return self._delta + b'{"reasoning_content":' + _encode(event.text) + _PART_TAIL
        if isinstance(event, Arguments):
            return self._call({"index": event.index, "function": {"arguments": event.fragment}})
        if isinstance(event, ToolCall):
            function = {"name": event.name, "arguments": ""}
            return self._call({"index": event.index, "id": event.id, "type": "function", "function": function})
        if isinstance(event, End):
            return self._end(event)
        return self._delta + b'{"role":"assistant","content":""}' + _TAIL

    def _call(self, call: dict[str, Any]) -> bytes:
        return self._delta + b'{"tool_calls":[' + _encode(call) + b"]" + _PART_TAIL

    def _end(self, end: End) -> bytes:
        finish = b'{},"finish_reason":' + _encode(end.reason) + b'}],"x_claude":' + _encode(_extra(end)) + b"}\n\n"
        usage = b""
        if self._include_usage:
            usage = self._bare + b',"choices":[],"usage":' + _encode(usage_object(end.usage)) + b"}\n\n"
        tip = f": tip {end.tip}\n\n".encode() if end.tip else b""
        return self._delta + finish + usage + tip + DONE

    def failed(self, error: ApiError) -> bytes:
        """The error as the stream's last chunk."""
        return error.frames()

    def error_body(self, error: ApiError) -> bytes:
        """The JSON error object."""
        return error.body()

    def whole(self, events: Iterable[Event]) -> bytes:
        """The completion as one JSON object."""
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        end = End("stop", UsageView())
        for event in events:
            if isinstance(event, Text):
                texts.append(event.text)
            elif isinstance(event, Reasoning):
                thoughts.append(event.text)
            elif isinstance(event, ToolCall):
                calls.append({"id": event.id, "type": "function", "function": {"name": event.name, "arguments": ""}})
            elif isinstance(event, Arguments):
                calls[event.index]["function"]["arguments"] += event.fragment
            elif isinstance(event, End):
                end = event
        text = "".join(texts)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        body = {"object": "chat.completion", "choices": [choice], "usage": usage_object(end.usage)}
        return _encode({**self._head, **body, "x_claude": _extra(end)})
