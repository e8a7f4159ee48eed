"""What the scripted model answers: a pure function of the request it was sent.

A prompt may hold directives, one a line, and the model plays them in order:

    ::say TEXT            text, streamed word by word
    ::think TEXT          a thinking block
    ::bash COMMAND        a call of the Bash tool (`::bg COMMAND` runs it in the background)
    ::write PATH TEXT     a call of the Write tool; `::edit PATH OLD=>NEW` of Edit; `::read PATH` of Read
    ::tool NAME JSON      a call of any tool
    ::tools NAME JSON | NAME JSON
                          several calls in one message
    ::recall              says, as JSON, every prompt of the user that the request held, oldest first
    ::results             says, as JSON, the texts of the tool results since the last prompt, in order
    ::sleep SECONDS       a pause in the stream
    ::chunks N SIZE       N text deltas of SIZE characters
    ::status CODE [N]     an HTTP error instead of an answer (only the first N times)
    ::cut                 the connection breaks in the middle of the answer

A prompt without directives gets the demo: one real tool call, then a short text. A tool call ends a message, as with
the real model; which step comes next follows from the tool calls already in the history.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_DIRECTIVE = re.compile(r"^::(\w+)(?: (.*))?$")
_NOT_THE_USERS = (
    "<system-reminder>",
    "<local-command",
    "<task-notification>",
    "[Request interrupted",
    "[Image: source:",
    "Your response above was cut off",
    "[structured-output-enforce]",
)
_DEMO_COMMAND = "pwd"
"""Allowed in every permission mode but plan; root gets acceptEdits."""


@dataclass(frozen=True, slots=True)
class Step:
    """One directive: its verb and the rest of its line."""

    verb: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One model message to play: the steps in order, then tool calls (name and input) or the end of the turn."""

    steps: tuple[Step, ...]
    calls: tuple[tuple[str, Json], ...] = ()

    @property
    def stop_reason(self) -> str:
        return "tool_use" if self.calls else "end_turn"


def texts_of(content: Any) -> list[str]:
    """The texts that the user wrote in a message's content, one a block.

    The CLI merges consecutive user messages into one with several blocks, and adds blocks of its own; those are left
    out.
    """
    if isinstance(content, str):
        blocks = [content]
    else:
        blocks = [b.get("text", "") for b in content if isinstance(b, dict) and b.get("type") == "text"]
    return [b.strip() for b in blocks if b.strip() and not b.lstrip().startswith(_NOT_THE_USERS)]


def told(message: Json) -> list[list[str]]:
    """What a message tells, in order: `["text", TEXT]` (the user's own as in `texts_of`), `["call", ID, NAME]`,
    `["result", ID, TEXT]`."""
    content, found = message.get("content"), []
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
        if block["type"] == "text":
            found += [["text", text] for text in texts_of([block])]
        elif block["type"] == "tool_use":
            found.append(["call", block["id"], block["name"]])
        elif block["type"] == "tool_result":
            found.append(["result", block["tool_use_id"], _result_text(block)])
    return found


def _prompts_in(message: Json) -> list[str]:
    return texts_of(message.get("content")) if message.get("role") == "user" else []


def prompts(request: Json) -> list[str]:
    """Every prompt of the user in the request, oldest first (tool results are not prompts)."""
    return [text for m in request.get("messages", []) for text in _prompts_in(m)]


def _last_prompt(messages: list[Json]) -> int:
    return max((i for i, m in enumerate(messages) if _prompts_in(m)), default=-1)


def _blocks(messages: list[Json], role: str, kind: str) -> list[Json]:
    return [
        b
        for m in messages
        if m.get("role") == role and isinstance(m.get("content"), list)
        for b in m["content"]
        if isinstance(b, dict) and b.get("type") == kind
    ]


def _calls_since_prompt(messages: list[Json]) -> int:
    return len(_blocks(messages[_last_prompt(messages) + 1 :], "assistant", "tool_use"))


def _result_text(block: Json) -> str:
    content = block.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(b.get("text", f"[{b.get('type')}]") for b in content)


def results(request: Json) -> list[str]:
    """The texts of the tool results since the last prompt, those in its own message included, in order."""
    messages = request.get("messages", [])
    return [_result_text(b) for b in _blocks(messages[max(0, _last_prompt(messages)) :], "user", "tool_result")]


def parse(prompt: str) -> list[Step]:
    """The directives of a prompt, in order; an empty list when it has none."""
    # `opencode run` puts a prompt that has blanks between quotation marks.
    bare = prompt[1:-1] if len(prompt) > 1 and prompt[0] == prompt[-1] == '"' else prompt
    found = (_DIRECTIVE.match(line.strip()) for line in bare.splitlines())
    return [Step(m[1], m[2] or "") for m in found if m]


def _named_calls(text: str) -> list[tuple[str, Json]]:
    """`NAME JSON | NAME JSON`; a call without JSON has no arguments."""
    calls: list[tuple[str, Json]] = []
    while text:
        name, _, rest = text.partition(" ")
        rest = rest.lstrip()
        given: Json = {}
        if rest.startswith("{"):
            given, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].lstrip()
        calls.append((name, given))
        text = rest.removeprefix("|").lstrip()
    return calls


def _tool_calls(step: Step) -> list[tuple[str, Json]]:
    head, _, rest = step.argument.partition(" ")
    if step.verb in ("bash", "bg"):
        call: Json = {"command": step.argument, "description": "scripted command"}
        return [("Bash", call | ({"run_in_background": True} if step.verb == "bg" else {}))]
    if step.verb == "write":
        return [("Write", {"file_path": head, "content": rest})]
    if step.verb == "read":
        return [("Read", {"file_path": head})]
    if step.verb == "edit":
        old, _, new = rest.partition("=>")
        return [("Edit", {"file_path": head, "old_string": old, "new_string": new})]
    if step.verb == "tool":
        return [(head, json.loads(rest or "{}"))]
    return _named_calls(step.argument) if step.verb == "tools" else []


def _messages(steps: list[Step]) -> list[Message]:
    """Split the steps at their tool calls: each message but the last ends with some."""
    out: list[Message] = []
    pending: list[Step] = []
    for step in steps:
        if calls := _tool_calls(step):
            out.append(Message(tuple(pending), tuple(calls)))
            pending = []
        else:
            pending.append(step)
    return [*out, Message(tuple(pending))]


def _next_message(messages: list[Message], calls_made: int) -> Message:
    """The first of which not all calls have been made."""
    for message in messages[:-1]:
        if calls_made < len(message.calls):
            return message
        calls_made -= len(message.calls)
    return messages[-1]


def _demo(request: Json, prompt: str) -> list[Step]:
    tools = {t.get("name") for t in request.get("tools", [])}
    if "Bash" not in tools:
        return [Step("say", "Scripted demo")]
    words = " ".join(prompt.split())[:200]
    return [
        Step("think", "The demo model is a script; it runs one real tool and answers."),
        Step("bash", _DEMO_COMMAND),
        Step("say", f"This is the scripted demo model: no ANTHROPIC_API_KEY is set. You said: {words!r}. "),
        Step("say", "The real Claude Code CLI just ran a command for it in this conversation's workspace."),
    ]


def answer(request: Json) -> Message:
    """The message that the script gives to this request (shape: Anthropic Messages API, `POST /v1/messages`)."""
    asked = prompts(request)
    prompt = asked[-1] if asked else ""
    messages = _messages(parse(prompt) or _demo(request, prompt))
    message = _next_message(messages, _calls_since_prompt(request.get("messages", [])))
    said = {"recall": asked[:-1], "results": results(request)}
    steps = tuple(
        Step("say", json.dumps(said[s.verb], ensure_ascii=False)) if s.verb in said else s for s in message.steps
    )
    return Message(steps or (() if message.calls else (Step("say", "Done."),)), message.calls)
