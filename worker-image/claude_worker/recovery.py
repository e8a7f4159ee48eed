"""What the CLI's transcript tells when the ledger does not: the end of a turn whose worker died, and old answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from claude_worker import record
from claude_worker.events import End, Event, UsageView
from claude_worker.frames import decode
from claude_worker.history import Asked
from claude_worker.ledger import Ledger
from claude_worker.openai.chunks import Head
from claude_worker.openai.errors import bad_request
from claude_worker.prefixes import EMPTY
from claude_worker.settings import WorkerSettings
from claude_worker.transcript import entries
from claude_worker.translate import FINISH, SCHEMA_TOOL, SYNTHETIC, Translator
from claude_worker.turn import Turn

Entry = dict[str, Any]
_ENDED = ("end_turn", "stop_sequence", "max_tokens", "refusal", "model_context_window_exceeded")


class Answer:
    """An answer as the transcript tells it, read entry by entry."""

    def __init__(self, tool_activity: str) -> None:
        self.translator = Translator(tool_activity=tool_activity)
        self.events: list[Event] = []
        self.whole = False
        self._object = ""
        """Id of the call that gives the object that follows a schema."""

    @property
    def called(self) -> bool:
        """It ends with calls of the client's tools."""
        return bool(self.translator.calls)

    def add(self, entry: Entry) -> None:
        """One more entry of the main thread."""
        message = entry["message"]
        if message.get("model") == SYNTHETIC:
            return
        if entry["type"] == "user":
            self._results(message, entry["uuid"])
        elif not (self._object and self.whole):
            self._said(message, entry["uuid"])

    def _said(self, message: dict[str, Any], uuid: str) -> None:
        given = next((b for b in message["content"] if b.get("name") == SCHEMA_TOOL), None)
        if given is not None:
            # What is said beside the object is not part of the answer.
            self._object, self.events = given["id"], []
            self.translator = Translator(tool_activity="off")
            text = msgspec.json.encode(given["input"]).decode()
            message = {**message, "id": given["id"], "content": [{"type": "text", "text": text}]}
        self._feed("assistant", message, uuid)
        reason = message.get("stop_reason")
        self.whole = not self._object and reason in _ENDED
        if self.called:
            self.whole, self.translator.finish_reason = reason == "tool_use", "tool_calls"
        else:
            self.translator.finish_reason = FINISH.get(reason or "", "stop")

    def _results(self, message: dict[str, Any], uuid: str) -> None:
        content = message["content"] if isinstance(message["content"], list) else []
        if any(b.get("tool_use_id") == self._object and not b.get("is_error") for b in content):
            self.whole = True
        self._feed("user", message, uuid)

    def _feed(self, kind: str, message: dict[str, Any], uuid: str) -> None:
        self.events += self.translator.feed(
            decode(msgspec.json.encode({"type": kind, "uuid": uuid, "message": message}))
        )


def judge(ledger: Ledger, settings: WorkerSettings) -> None:
    """Decide what became of the turns whose end was never written, and where the conversation is. Blocking."""
    lines: list[list[Any]] = []
    for turn in ledger.open.values():
        answer = answer_of(ledger, settings, turn)
        session = ledger.sessions.get(turn.uuid, "")
        node = record.answer_node(session, turn.prefix, answer.translator) if answer else None
        lines += ledger.end(turn, "done" if node else "lost", node)
        turn.delivered = False
    ledger.open.clear()
    if _catch_up(ledger) or lines:
        ledger.write(lines, ledger.encoded_state())


def _catch_up(ledger: Ledger) -> bool:
    """Whether the state was older than the last turn: a worker died before it had written both."""
    state, last = ledger.state, ledger.last
    if last is None or not state.claude_session_id or ledger.sessions.get(last.uuid) != state.claude_session_id:
        return False
    reached = last.answer or last.prefix
    if state.tip == reached:
        return False
    state.tip, state.clean = reached, bool(last.answer)
    return True


def answer_of(ledger: Ledger, settings: WorkerSettings, asked: Asked) -> Answer | None:
    """A turn's answer from the transcript; None when it is not there, or not whole. Blocking."""
    answer = Answer(settings.tool_activity)
    for entry in _after(ledger, settings.config_dir, asked):
        if answer.called and entry["type"] == "user":
            break
        answer.add(entry)
    answer.translator.parked = answer.called
    return answer if answer.whole and answer.translator.last_uuid else None


def _after(ledger: Ledger, config_dir: Path, asked: Asked) -> Iterator[Entry]:
    """The main thread's entries from a turn's prompt to the next one's.

    A turn that brought only results has no prompt when the CLI waited for them: it begins after the calls.
    """
    base = ledger.nodes.get(asked.base)
    calls = base.uuid if base is not None and base.calls else ""
    begun = False
    for entry in entries(config_dir, ledger.sessions.get(asked.uuid, "")):
        uuid, kind = entry.get("uuid"), entry.get("type")
        if uuid in (asked.uuid, calls) and uuid:
            begun = True
        elif begun and kind in ("assistant", "user") and not entry.get("isSidechain") and not entry.get("isMeta"):
            if kind == "user" and _is_prompt(entry["message"].get("content")):
                return
            yield entry


def _is_prompt(content: Any) -> bool:
    return isinstance(content, str) or any(b.get("type") != "tool_result" for b in content or () if isinstance(b, dict))


def told_again(asked: Asked, answer: Answer, head: Head) -> Turn | None:
    """A finished turn whose answer is known again; None when the transcript tells another than the client has."""
    if record.answer_prefix(asked.prefix, answer.translator) != asked.answer:
        return None
    turn = Turn.ended(answer.translator, head.model, int(time.time()), head.conversation, asked.uuid)
    turn.events = [*answer.events, End(answer.translator.finish_reason, UsageView(), tip=asked.answer)]
    return turn


def go_to(ledger: Ledger, config_dir: Path, at: str) -> None:
    """Set the conversation to where the message `at` ends. Blocking. Raises ApiError (400) when there is none."""
    state = ledger.state
    node = next((n for n in ledger.nodes.values() if n.uuid == at), None)
    session = node.session if node else _session_of(config_dir, at)
    if not session:
        raise bad_request(f"No message {at!r} is in this conversation.", code="unknown_message", param="at")
    state.fork = (session, at)
    state.claude_session_id = str(uuid4())
    state.tip, state.clean = (node.prefix, True) if node else (EMPTY, False)
    ledger.write([], ledger.encoded_state())


def _session_of(config_dir: Path, uuid: str) -> str:
    for path in config_dir.glob("projects/*/*.jsonl"):
        if any(e.get("uuid") == uuid and e.get("type") == "assistant" for e in entries(config_dir, path.stem)):
            return path.stem
    return ""
