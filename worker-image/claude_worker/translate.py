"""From the CLI's frames to one answer's events: a small state machine without I/O.

Text and thinking are passed on. Calls of the CLI's own tools become a line each (as reasoning, as text, or not at all);
calls of the client's tools become tool calls of the answer, which ends with them (it is parked). Frames of subagents
(`parent_tool_use_id`) show their tool calls only. An `assistant` frame says again what the deltas of the same message
id said, unless the CLI fell back to a request without streaming: then it is all there is.
"""

from __future__ import annotations

from claude_worker import usage
from claude_worker.bridge import PREFIX, ClientCall
from claude_worker.events import Arguments, Begin, End, Event, FinishReason, Reasoning, Text, ToolCall, UsageView
from claude_worker.failure import failure
from claude_worker.frames import Block, Frame, StreamEvent, Usage, assistant_message, tool_results
from claude_worker.openai.errors import ApiError
from claude_worker.tool_lines import describe_call, is_object

SYNTHETIC = "<synthetic>"
"""The model of messages that the CLI wrote itself."""
SCHEMA_TOOL = "StructuredOutput"
"""The tool by which the CLI has the model give an answer that follows a schema."""
FINISH: dict[str, FinishReason] = {
    "max_tokens": "length", "refusal": "content_filter", "model_context_window_exceeded": "length",
}  # fmt: skip


class _OpenTool:
    """A tool call whose input is being streamed."""

    __slots__ = ("block", "pieces")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.pieces: list[str] = []


class Translator:
    """One answer. `feed` returns the events of a frame; `finished` tells that the prompt's result came.

    `parked` tells that the answer ended with calls of the client's tools: what the CLI says from then on belongs to
    the next answer, whose translator takes it over (`resumed`). `cost_before` and `claude_session_id` are to be set
    when the turn begins: the CLI counts its cost cumulatively, in US dollars. With `structured`, the one text is the
    object that follows the schema.
    """

    def __init__(self, *, tool_activity: str, structured: bool = False) -> None:
        # What is not the object itself must not get into the text.
        self._activity_as = "reasoning" if structured and tool_activity == "text" else tool_activity
        self._structured = structured
        self._tools: dict[tuple[str | None, int], _OpenTool] = {}
        self._begun = False
        self._streamed = self._whole = ""
        self._streaming = False
        self._stop_reason: str | None = None
        self._used: Usage | None = None
        self._asked: set[str] = set()
        self._announced: set[str] = set()
        self._text: list[str] = []
        self._told: UsageView | None = None
        self._late: list[Frame | ClientCall] = []
        self.calls: list[ClientCall] = []
        self.parked = False
        self.finished = False
        self.aborted = False
        self.error: ApiError | None = None
        self.finish_reason: FinishReason = "stop"
        self.usage = UsageView()
        self.cost_usd = 0.0
        self.cost_total = 0.0
        self.cost_before = 0.0
        self.claude_session_id = ""
        self.last_uuid = ""

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._text)

    def feed(self, frame: Frame) -> list[Event]:
        """What this frame adds to the answer; often nothing."""
        if self.parked:
            return self._after_the_end(frame)
        if frame.type == "stream_event" and frame.event:
            return self._event(frame.event, frame.parent_tool_use_id)
        if frame.type == "assistant" and frame.parent_tool_use_id is None:
            self.last_uuid = frame.uuid or self.last_uuid
            return self._assistant(frame)
        if frame.type == "user":
            return self._results(frame)
        if frame.type == "result":
            return self._result(frame)
        return []

    # -- stream events -------------------------------------------------------------------------------------------

    def _event(self, event: StreamEvent, parent: str | None) -> list[Event]:
        delta = event.delta
        if event.type == "content_block_delta" and delta:
            if parent is None and delta.type == "text_delta" and delta.text:
                return self._content(delta.text)
            if parent is None and delta.type == "thinking_delta" and delta.thinking:
                return self._reason(delta.thinking)
            if delta.type == "input_json_delta" and (open_tool := self._tools.get((parent, event.index))):
                open_tool.pieces.append(delta.partial_json)
            return []
        key = (parent, event.index)
        if event.type == "content_block_start" and event.content_block:
            return self._start_block(event.content_block, key)
        if event.type == "content_block_stop" and key in self._tools:
            return self._end_tool(self._tools.pop(key), parent)
        return self._message_event(event) if parent is None else []

    def _message_event(self, event: StreamEvent) -> list[Event]:
        if event.type == "message_start":
            self._streamed, self._used = (event.message.id, event.message.usage) if event.message else ("", None)
            self._streaming, self._stop_reason = True, None
            self._asked.clear()
            return self._begin()
        if event.type == "message_delta":
            self._stop_reason = event.delta.stop_reason if event.delta else None
            if event.usage:
                self._used = usage.latest(self._used or Usage(), event.usage)
        elif event.type == "message_stop":
            self._streaming = False
            self._count_message(self._used)
            # A message that was cut off has no stop reason; the calls in it count when the CLI does make them.
            if self._asked and (self._stop_reason == "tool_use" or self._asked & self._announced):
                return self._park()
        return []

    def _count_message(self, used: Usage | None) -> None:
        if used:
            self.usage = usage.plus(self.usage, usage.viewed(used))

    def _start_block(self, block: Block, key: tuple[str | None, int]) -> list[Event]:
        if block.type in ("tool_use", "server_tool_use"):
            self._tools[key] = _OpenTool(block)
        elif block.type == "text" and key[0] is None and self._text and not self._text[-1].endswith("\n"):
            # Texts before and after a tool call are separate paragraphs, not one run-on line.
            return self._content("\n\n")
        return []

    def _end_tool(self, tool: _OpenTool, parent: str | None) -> list[Event]:
        given = "".join(tool.pieces)
        name = tool.block.name
        if not name.startswith(PREFIX):
            return [] if name == SCHEMA_TOOL else self._activity(describe_call(name, given))
        # Shown only when whole: one that was cut off is not made, and an answer cannot take it back.
        if parent is not None or not is_object(given or "{}"):
            return []
        return self._call(ClientCall(tool.block.id, name.removeprefix(PREFIX), given or "{}"))

    # -- whole messages ------------------------------------------------------------------------------------------

    def _assistant(self, frame: Frame) -> list[Event]:
        message = assistant_message(frame)
        if message.model == SYNTHETIC or message.id == self._streamed:
            return []
        if message.id != self._whole:
            self._whole, self._streaming = message.id, False
            self._asked.clear()
            self._count_message(message.usage)
        shown: list[Event] = []
        for block in message.content:
            shown += self._unstreamed(block)
        return shown

    def _unstreamed(self, block: Block) -> list[Event]:
        if block.type == "text" and block.text:
            return [*self._start_block(block, (None, -1)), *self._content(block.text)]
        if block.type != "tool_use":
            return []
        given = bytes(block.input).decode() or "{}"
        if block.name.startswith(PREFIX):
            return self._call(ClientCall(block.id, block.name.removeprefix(PREFIX), given))
        return [] if block.name == SCHEMA_TOOL else self._activity(describe_call(block.name, given))

    def _results(self, frame: Frame) -> list[Event]:
        shown: list[Event] = []
        results = tool_results(frame)
        if results and frame.parent_tool_use_id is None and not self._asked:
            # A memory that ended with the call would have no result of it.
            self.last_uuid = frame.uuid or self.last_uuid
        for result in results:
            # The CLI refused the call itself: nobody is to answer it any more.
            self._asked.discard(result.tool_use_id)
            if result.is_error:
                shown += self._activity(f"failed: {result.content if isinstance(result.content, str) else 'failed'}")
        return shown

    # -- the client's tools --------------------------------------------------------------------------------------

    def _call(self, call: ClientCall) -> list[Event]:
        if any(known.id == call.id for known in self.calls):
            return []
        index = len(self.calls)
        self.calls.append(call)
        self._asked.add(call.id)
        return [*self._begin(), ToolCall(index, call.id, call.name), Arguments(index, call.arguments)]

    def announce(self, call: ClientCall) -> list[Event]:
        """The CLI waits for this call's result. Ends the answer, unless the message that makes it is still coming."""
        if self.parked:
            if all(known.id != call.id for known in self.calls):
                self._late.append(call)
            return []
        self._announced.add(call.id)
        if self._streaming and (call.id in self._asked or self._being_streamed(call.id)):
            return []
        return [*self._call(call), *self._park()]

    def _being_streamed(self, call_id: str) -> bool:
        return any(parent is None and tool.block.id == call_id for (parent, _), tool in self._tools.items())

    def _park(self) -> list[Event]:
        self.parked = True
        self.finish_reason = "tool_calls"
        return [*self._begin(), End("tool_calls", self.usage, self.cost_usd, self.claude_session_id)]

    def _after_the_end(self, frame: Frame) -> list[Event]:
        if frame.type == "result":
            self._conclude(frame)
        elif frame.parent_tool_use_id is not None or frame.type not in ("stream_event", "assistant", "user"):
            return []
        self._late.append(frame)
        return []

    def resumed(self, before: Translator) -> list[Event]:
        """Go on where `before` was parked; returns what the CLI has said since then."""
        self._told = usage.plus(before._told or UsageView(), before.usage)
        self.cost_before, self.claude_session_id = before.cost_before, before.claude_session_id
        self.last_uuid = before.last_uuid
        self._tools = before._tools
        self._streamed, self._whole, self._streaming = before._streamed, before._whole, before._streaming
        self._used, self._stop_reason = before._used, before._stop_reason
        late, before._late = before._late, []
        shown: list[Event] = []
        for item in late:
            shown += self.announce(item) if isinstance(item, ClientCall) else self.feed(item)
        return shown

    # -- what is shown -------------------------------------------------------------------------------------------

    def _begin(self) -> list[Event]:
        if self._begun:
            return []
        self._begun = True
        return [Begin()]

    def _content(self, text: str) -> list[Event]:
        return [] if self._structured else self._show(text)

    def _show(self, text: str) -> list[Event]:
        self._text.append(text)
        return [Text(text)] if self._begun else [*self._begin(), Text(text)]

    def _reason(self, text: str) -> list[Event]:
        return [*self._begin(), Reasoning(text)]

    def _activity(self, line: str) -> list[Event]:
        if self._activity_as == "off":
            return []
        shown = f"\n> {line}\n"
        return self._content(shown) if self._activity_as == "text" else self._reason(shown)

    # -- the end -------------------------------------------------------------------------------------------------

    def _result(self, frame: Frame) -> list[Event]:
        self._conclude(frame)
        if self.aborted or self.error:
            return []
        self.finish_reason = FINISH.get(frame.stop_reason or "", "stop")
        late: list[Event] = []
        if self._structured:
            late = self._show(bytes(frame.structured_output).decode())
        elif frame.result and not self._text and self._told is None:
            late = self._show(frame.result)
        end = End(self.finish_reason, self.usage, self.cost_usd, frame.session_id or self.claude_session_id)
        return [*self._begin(), *late, end]

    def _conclude(self, frame: Frame) -> None:
        self.finished = True
        self.aborted = (frame.terminal_reason or "").startswith("aborted")
        # An interrupted turn's result counts nothing; what was streamed of it did happen.
        if frame.usage and not self.aborted and not self.parked:
            self.usage = usage.minus(usage.viewed(frame.usage), self._told or UsageView())
        # `total_cost_usd` is of the whole process; smaller than before means that the CLI began to count anew.
        total = frame.total_cost_usd or 0.0
        self.cost_usd = max(0.0, total - (self.cost_before if total >= self.cost_before else 0.0))
        self.cost_total = total
        if not self.aborted:
            self.error = failure(frame, structured=self._structured)
