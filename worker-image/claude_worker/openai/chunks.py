"""Completion objects: the bytes of SSE chunks and of whole answers.

Shapes: OpenAI's chat completion reference. `reasoning_content` is the field that the AI SDK's openai-compatible
provider (opencode) reads reasoning from; `x_claude` is our own.
"""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.encode

KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"


class UsageView(msgspec.Struct, frozen=True):
    """One turn's tokens; `prompt` includes the cached ones."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0

    def to_openai(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": self.cache_written},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


class ChunkWriter:
    """Encodes the chunks of one completion. The unchanging part of each chunk is built once."""

    def __init__(self, completion_id: str, created: int, model: str) -> None:
        self._head: dict[str, Any] = {"id": completion_id, "created": created, "model": model}
        opening = _encode({**self._head, "object": "chat.completion.chunk"})[:-1]
        self._delta = b"data: " + opening + b',"choices":[{"index":0,"delta":'
        self._bare = b"data: " + opening
        self._tail = b',"finish_reason":null}]}\n\n'

    def role(self) -> bytes:
        """The first chunk."""
        return self._delta + b'{"role":"assistant","content":""}' + self._tail

    def content(self, text: str) -> bytes:
        return self._delta + b'{"content":' + _encode(text) + b"}" + self._tail

    def reasoning(self, text: str) -> bytes:
        return self._delta + b'{"reasoning_content":' + _encode(text) + b"}" + self._tail

    def finish(self, reason: str, extra: dict[str, Any]) -> bytes:
        """The chunk with the one `finish_reason`."""
        return self._delta + b'{},"finish_reason":' + _encode(reason) + b'}],"x_claude":' + _encode(extra) + b"}\n\n"

    def usage(self, usage: UsageView) -> bytes:
        """The usage chunk, sent when `stream_options.include_usage` asks for it."""
        return self._bare + b',"choices":[],"usage":' + _encode(usage.to_openai()) + b"}\n\n"

    def whole(self, text: str, reasoning: str, reason: str, usage: UsageView, extra: dict[str, Any]) -> bytes:
        """The whole completion as one JSON object."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        body = {"object": "chat.completion", "choices": [choice], "usage": usage.to_openai(), "x_claude": extra}
        return _encode({**self._head, **body})
