"""From the CLI's frames to one OpenAI completion: a small state machine without I/O.

Text deltas become `content`, thinking becomes `reasoning_content`, tool calls become a line each (as reasoning, as
text, or not at all). Frames of subagents (`parent_tool_use_id`) show their tool calls only. An `assistant` frame says
again what the deltas of the same message id said, unless the CLI fell back to a request without streaming: then it is
all there is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from claude_worker.frames import Block, Event, Frame, assistant_message, tool_errors
from claude_worker.openai.chunks import DONE, ChunkWriter, UsageView
from claude_worker.openai.errors import ApiError, model_failure

_TOOL_SUBJECTS = (
    "command",
    "file_path",
    "path",
    "pattern",
    "url",
    "query",
    "description",
    "prompt",
    "skill",
    "subject",
)
_SYNTHETIC = "<synthetic>"
_LINE_MAX = 200
_FINISH = {"max_tokens": "length", "refusal": "content_filter", "model_context_window_exceeded": "length"}


class Translator:
    """One turn's output. `feed` returns the SSE bytes of a frame; `finished` tells that the turn's result came.

    `cost_before` is to be set when the turn begins: the CLI counts its cost cumulatively, in US dollars.
    """

    def __init__(self, writer: ChunkWriter, *, tool_activity: str, include_usage: bool) -> None:
        self._writer = writer
        self._tool_activity = tool_activity
        self._include_usage = include_usage
        self._tools: dict[tuple[str | None, int], tuple[str, list[str]]] = {}
        self._begun = False
        self._streamed = ""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.finished = False
        self.aborted = False
        self.error: ApiError | None = None
        self.finish_reason = "stop"
        self.usage = UsageView()
        self.cost_usd = 0.0
        self.cost_total = 0.0
        self.cost_before = 0.0
        self.last_uuid = ""
        self._extra: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The `content` so far."""
        return "".join(self._text)

    def whole(self) -> bytes:
        """The JSON object of the finished completion."""
        return self._writer.whole(self.text, "".join(self._reasoning), self.finish_reason, self.usage, self._extra)

    def feed(self, frame: Frame) -> bytes:
        """The bytes to send for this frame; empty when the client sees nothing of it."""
        if frame.type == "stream_event" and frame.event:
            return self._event(frame.event, frame.parent_tool_use_id)
        if frame.type == "assistant" and frame.parent_tool_use_id is None:
            self.last_uuid = frame.uuid or self.last_uuid
            return self._unstreamed(frame)
        if frame.type == "user":
            return b"".join(self._activity(f"failed: {e}") for e in tool_errors(frame))
        if frame.type == "result":
            return self._result(frame)
        return b""

    # -- stream events -------------------------------------------------------------------------------------------

    def _event(self, event: Event, parent: str | None) -> bytes:
        key = (parent, event.index)
        delta = event.delta
        if event.type == "content_block_delta" and delta:
            if delta.type == "input_json_delta" and key in self._tools:
                self._tools[key][1].append(delta.partial_json)
            elif parent is None and delta.type == "text_delta" and delta.text:
                return self._content(delta.text)
            elif parent is None and delta.type == "thinking_delta" and delta.thinking:
                return self._reason(delta.thinking)
            return b""
        if event.type == "content_block_start" and event.content_block:
            return self._start_block(event.content_block, key)
        if event.type == "content_block_stop" and key in self._tools:
            name, pieces = self._tools.pop(key)
            return self._activity(describe_call(name, "".join(pieces)))
        if event.type == "message_start" and parent is None:
            self._streamed = event.message.id if event.message else ""
            return self._begin()
        return b""

    def _unstreamed(self, frame: Frame) -> bytes:
        message = assistant_message(frame)
        if message.id == self._streamed or message.model == _SYNTHETIC:
            return b""
        shown = []
        for block in message.content:
            if block.type == "text" and block.text:
                shown.append(self._start_block(block, (None, -1)) + self._content(block.text))
            elif block.type == "tool_use":
                shown.append(self._activity(block.name))
        return b"".join(shown)

    def _start_block(self, block: Block, key: tuple[str | None, int]) -> bytes:
        if block.type in ("tool_use", "server_tool_use"):
            self._tools[key] = (block.name, [])
        elif block.type == "text" and key[0] is None and self._text and not self._text[-1].endswith("\n"):
            # Texts before and after a tool call are separate paragraphs, not one run-on line.
            return self._content("\n\n")
        return b""

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._writer.role()

    def _content(self, text: str) -> bytes:
        self._text.append(text)
        return self._begin() + self._writer.content(text)

    def _reason(self, text: str) -> bytes:
        self._reasoning.append(text)
        return self._begin() + self._writer.reasoning(text)

    def _activity(self, line: str) -> bytes:
        if self._tool_activity == "off":
            return b""
        shown = f"\n> {line}\n"
        return self._content(shown) if self._tool_activity == "text" else self._reason(shown)

    # -- the end -------------------------------------------------------------------------------------------------

    def _result(self, frame: Frame) -> bytes:
        self.finished = True
        self._count(frame)
        self.aborted = (frame.terminal_reason or "").startswith("aborted")
        if frame.is_error and not self.aborted:
            self.error = failure(frame)
            return b""
        self.finish_reason = _FINISH.get(frame.stop_reason or "", "stop")
        late = self._content(frame.result) if frame.result and not self._text else b""
        usage = self._writer.usage(self.usage) if self._include_usage else b""
        return self._begin() + late + self._writer.finish(self.finish_reason, self._extra) + usage + DONE

    def _count(self, frame: Frame) -> None:
        if frame.usage:
            u = frame.usage
            cached, written = u.cache_read_input_tokens or 0, u.cache_creation_input_tokens or 0
            thinking = (u.output_tokens_details or {}).get("thinking_tokens") or 0
            prompt = (u.input_tokens or 0) + cached + written
            self.usage = UsageView(prompt, u.output_tokens or 0, cached, written, int(thinking))
        # `total_cost_usd` is of the whole process; smaller than before means that the CLI began to count anew.
        total = frame.total_cost_usd or 0.0
        self.cost_usd = max(0.0, total - (self.cost_before if total >= self.cost_before else 0.0))
        self.cost_total = total
        self._extra = {"cost_usd": round(self.cost_usd, 6), "session_id": frame.session_id}


def describe_call(name: str, input_json: str) -> str:
    """One line for a tool call: its name and what it is about."""
    try:
        given = msgspec.json.decode(input_json or "{}")
    except msgspec.DecodeError:
        given = {}
    values = given if isinstance(given, dict) else {}
    subject = next((str(values[k]) for k in _TOOL_SUBJECTS if values.get(k)), "")
    line = " ".join(f"{name}: {subject}".split()) if subject else name
    return line if len(line) <= _LINE_MAX else line[: _LINE_MAX - 1] + "…"


def failure(frame: Frame) -> ApiError:
    """The API error for a result with `is_error`."""
    if frame.terminal_reason == "max_turns" or frame.subtype == "error_max_turns":
        return ApiError(502, "Claude Code reached its limit of steps.", code="max_turns", retry=False)
    words = [str(e) for e in frame.errors or []]
    message = frame.result or "; ".join(words) or "Claude Code ended the turn with an error."
    return model_failure(frame.api_error_status, message[:1000])
