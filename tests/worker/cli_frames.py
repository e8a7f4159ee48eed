"""Frames as the CLI prints them, short to write."""

from __future__ import annotations

import json
from typing import Any

from claude_worker import frames
from claude_worker.events import Event, Reasoning, Text
from claude_worker.translate import Translator


def frame(line: dict[str, Any]) -> frames.Frame:
    return frames.decode(json.dumps(line).encode())


def feed(t: Translator, *lines: dict[str, Any]) -> list[Event]:
    """The events that the lines give."""
    return [event for line in lines for event in t.feed(frame(line))]


def event(kind: str, parent: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "stream_event", "parent_tool_use_id": parent, "event": {"type": kind, "index": index, **fields}}


def begin(message: str = "msg_1", prompt: int = 0) -> dict[str, Any]:
    return event("message_start", message={"id": message, "usage": {"input_tokens": prompt, "output_tokens": 1}})


def text(said: str, **fields: Any) -> dict[str, Any]:
    return event("content_block_delta", delta={"type": "text_delta", "text": said}, **fields)


def use(name: str, *pieces: str, call: str = "toolu_1", index: int = 1, parent: str | None = None) -> Any:
    """A whole tool_use block, streamed."""
    return [
        event("content_block_start", parent, index, content_block={"type": "tool_use", "name": name, "id": call}),
        *(
            event("content_block_delta", parent, index, delta={"type": "input_json_delta", "partial_json": p})
            for p in pieces
        ),
        event("content_block_stop", parent, index),
    ]


def stop(reason: str | None = "tool_use", output: int = 0) -> list[dict[str, Any]]:
    """The end of a message; one that was cut off has no reason."""
    usage = {"input_tokens": None, "output_tokens": output}
    told = [event("message_delta", delta={"stop_reason": reason}, usage=usage)] if reason else []
    return [*told, event("message_stop")]


def assistant(*content: dict[str, Any], message: str = "msg_1", uuid: str = "u1", **fields: Any) -> dict[str, Any]:
    return {"type": "assistant", "uuid": uuid, "message": {"id": message, "content": list(content), **fields}}


def result(**fields: Any) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": False, "stop_reason": "end_turn", "result": "x",
            "total_cost_usd": 0.5, "session_id": "s",
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3,
                      "output_tokens": 7}} | fields  # fmt: skip


def texts(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Text))


def reasoning(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Reasoning))
