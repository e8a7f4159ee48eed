"""The bytes of a response: its events as a stream, or the whole object.

Shapes: OpenAI's Responses reference. In the last event `type` comes last, so that a relay knows the stream's end by its
last bytes; the comment that tells the answer's tip follows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from claude_worker.events import Arguments, End, Event, Reasoning, Text, ToolCall, UsageView
from claude_worker.openai.chunks import KEEPALIVE, Head
from claude_worker.openai.errors import ApiError
from claude_worker.openai.response_ids import response_id
from claude_worker.openai.responses import ResponsesRequest

_encode = msgspec.json.encode
_Kind = Literal["message", "reasoning", "function_call"]
_PREFIX: dict[_Kind, str] = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_DELTA: dict[_Kind, str] = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_summary_text.delta",
    "function_call": "response.function_call_arguments.delta",
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Item:
    """One output item in the making."""

    def __init__(self, kind: _Kind, turn: str, index: int, call: ToolCall | None) -> None:
        self.kind = kind
        self.id = f"{_PREFIX[kind]}_{turn}{index:04d}"
        self.index = index
        self.call = call
        self.done = False
        self.pieces: list[str] = []
        name = _DELTA[kind]
        head = {"type": name, "item_id": self.id, "output_index": index, **self.part_index()}
        if kind == "message":
            head["logprobs"] = []
        self.delta = f"event: {name}\ndata: ".encode() + _encode(head)[:-1] + b',"sequence_number":%d,"delta":'

    def part_index(self) -> dict[str, Any]:
        """Which part of the item an event is about: there is only one."""
        return {"message": {"content_index": 0}, "reasoning": {"summary_index": 0}}.get(self.kind, {})

    def part(self) -> dict[str, Any]:
        text = "".join(self.pieces)
        if self.kind == "message":
            return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        return {"type": "summary_text", "text": text}

    def view(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        """The item as the client sees it; `empty`: as it begins."""
        item: dict[str, Any] = {"type": self.kind, "id": self.id, "status": status}
        parts = [] if empty else [self.part()]
        if self.kind == "message":
            return {**item, "role": "assistant", "content": parts}
        if self.kind == "reasoning":
            return {**item, "summary": parts}
        assert self.call is not None
        return {**item, "call_id": self.call.id, "name": self.call.name, "arguments": "".join(self.pieces)}


class ResponsesWriter:
    """Writes one response. What the model thinks is told when the request asks for a summary of it."""

    keepalive = KEEPALIVE

    def __init__(self, head: Head, request: ResponsesRequest) -> None:
        self._turn = head.id
        self._thoughts = bool(request.source.reasoning and request.source.reasoning.told)
        self._response = _opening(head, request)
        self._items: list[_Item] = []
        self._calls: dict[int, _Item] = {}
        self._open: _Item | None = None
        self._number = 0

    def feed(self, event: Event) -> bytes:
        """See Writer."""
        begun = b"" if self._number else self._begin()
        if isinstance(event, Text):
            return begun + self._say("message", event.text)
        if isinstance(event, Arguments):
            return begun + self._more(self._calls[event.index], event.fragment)
        if isinstance(event, Reasoning):
            return begun + (self._say("reasoning", event.text) if self._thoughts else b"")
        if isinstance(event, ToolCall):
            opened = self._close() + self._add("function_call", event)
            self._calls[event.index] = self._items[-1]
            return begun + opened
        if isinstance(event, End):
            return begun + self._close() + self._end(event)
        return begun

    def failed(self, error: ApiError) -> bytes:
        """See Writer."""
        begun = b"" if self._number else self._begin()
        output = [item.view("completed" if item.done else "incomplete") for item in self._items]
        failure = {"code": _code(error), "message": error.message, "type": error.kind, "param": error.param}
        more = {"status": "failed", "error": failure, "output": output, "x_claude": {"error_code": error.code}}
        return begun + self._last("response.failed", {**self._response, **more})

    def whole(self, events: Iterable[Event]) -> bytes:
        """See Writer."""
        for event in events:
            if isinstance(event, End):
                self._close()
                return _encode(self._ended(event))
            self.feed(event)
        return _encode(self._response)

    def error_body(self, error: ApiError) -> bytes:
        """See Writer."""
        return error.body()

    # -- events --------------------------------------------------------------------------------------------------

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _begin(self) -> bytes:
        created = self._event("response.created", {"response": self._response})
        return created + self._event("response.in_progress", {"response": self._response})

    def _say(self, kind: _Kind, text: str) -> bytes:
        if self._open is not None and self._open.kind == kind:
            return self._more(self._open, text)
        opened = self._close() + self._add(kind)
        return opened + self._more(self._items[-1], text)

    def _more(self, item: _Item, text: str) -> bytes:
        item.pieces.append(text)
        data = item.delta % self._number + _encode(text) + b"}\n\n"
        self._number += 1
        return data

    def _add(self, kind: _Kind, call: ToolCall | None = None) -> bytes:
        item = self._open = _Item(kind, self._turn, len(self._items), call)
        self._items.append(item)
        begun = item.view("in_progress", empty=True)
        added = self._event("response.output_item.added", {"output_index": item.index, "item": begun})
        return added if call else added + self._part_event(item, "added")

    def _part_event(self, item: _Item, what: str) -> bytes:
        name = "content_part" if item.kind == "message" else "reasoning_summary_part"
        at = {"item_id": item.id, "output_index": item.index, **item.part_index()}
        return self._event(f"response.{name}.{what}", {**at, "part": item.part()})

    def _close(self) -> bytes:
        """The end of the item that is being written."""
        item = self._open
        if item is None:
            return b""
        # A call without arguments: clients read them as JSON, which nothing is not.
        data = self._more(item, "{}") if item.call is not None and not item.pieces else b""
        self._open = None
        item.done = True
        at: dict[str, Any] = {"item_id": item.id, "output_index": item.index, **item.part_index()}
        text = "".join(item.pieces)
        if item.call is not None:
            done = {**at, "name": item.call.name, "arguments": text}
        else:
            done = {**at, "text": text, "logprobs": []} if item.kind == "message" else {**at, "text": text}
        data += self._event(_DELTA[item.kind].removesuffix("delta") + "done", done)
        if item.call is None:
            data += self._part_event(item, "done")
        return data + self._event(
            "response.output_item.done", {"output_index": item.index, "item": item.view("completed")}
        )

    def _ended(self, end: End) -> dict[str, Any]:
        reason = _INCOMPLETE.get(end.reason)
        return {
            **self._response,
            "status": "incomplete" if reason else "completed",
            "incomplete_details": {"reason": reason} if reason else None,
            "output": [item.view("completed") for item in self._items],
            "usage": _usage(end.usage),
            "x_claude": {"cost_usd": end.cost_usd, "session_id": end.claude_session_id},
        }

    def _end(self, end: End) -> bytes:
        ended = self._ended(end)
        last = self._last(f"response.{ended['status']}", ended)
        return last + b": tip " + end.tip.encode() + b"\n\n" if end.tip else last

    def _last(self, kind: str, response: dict[str, Any]) -> bytes:
        data = _encode({"sequence_number": self._number, "response": response, "type": kind})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _opening(head: Head, request: ResponsesRequest) -> dict[str, Any]:
    """The response as it begins: what was asked for, and nothing of the answer."""
    source = request.source
    reasoning = source.reasoning
    return {
        "id": response_id(head.conversation, head.id),
        "object": "response",
        "created_at": head.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": source.instructions,
        "max_output_tokens": source.max_output_tokens,
        "metadata": source.metadata or {},
        "model": head.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": source.previous_response_id,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary} if reasoning else None,
        "store": False,
        "temperature": source.temperature,
        "text": {"format": source.text.format if source.text and source.text.format else {"type": "text"}},
        "tool_choice": "auto" if source.tool_choice is None else source.tool_choice,
        "tools": [_tool(tool) for tool in source.tools or ()],
        "top_p": source.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": source.user,
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": None, "strict": None, **tool} if tool.get("type") == "function" else tool


def _usage(usage: UsageView) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_written},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def _code(error: ApiError) -> str:
    """One of the codes that this API knows; our own is in `x_claude`."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if 400 <= error.status < 500 else "server_error"
