"""What the CLI's transcript tells when the ledger does not: the end of a turn whose worker died, and old answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from claude_worker.events import Begin, End, Text, UsageView
from claude_worker.history import Asked, Node
from claude_worker.ledger import Ledger
from claude_worker.openai.chunks import Head
from claude_worker.openai.errors import bad_request
from claude_worker.openai.request import Message
from claude_worker.prefixes import EMPTY, extend
from claude_worker.transcript import entries
from claude_worker.translate import Translator
from claude_worker.turn import Turn


def judge(ledger: Ledger, config_dir: Path) -> None:
    """Decide what became of the turns whose end was never written, and write it. Blocking."""
    state = ledger.state
    lines: list[list[Any]] = []
    for turn in ledger.open.values():
        session = ledger.sessions.get(turn.uuid, "")
        text, uuid, whole = _answer(config_dir, session, turn.uuid)
        node = None
        if whole and uuid:
            node = Node(extend(turn.prefix, [Message("assistant", text)]), session, uuid)
        lines += ledger.end(turn, "done" if node else "lost", node)
        turn.delivered = False
        if session == state.claude_session_id and turn is ledger.last:
            state.tip, state.clean = (node.prefix, True) if node else (turn.prefix, False)
    ledger.open.clear()
    if lines:
        ledger.write(lines, ledger.encoded_state())


def _answer(config_dir: Path, session: str, prompt: str) -> tuple[str, str, bool]:
    """What the transcript has of the answer to a prompt: its text, its last message's uuid, whether it is whole."""
    found, text, uuid, whole = False, "", "", False
    for entry in entries(config_dir, session):
        kind, content = entry.get("type"), entry.get("message", {}).get("content")
        if kind == "user" and entry.get("uuid") == prompt:
            found = True
        elif not found or entry.get("isSidechain"):
            continue
        elif kind == "user" and _is_prompt(content):
            break
        elif kind == "assistant" and entry["message"].get("model") != "<synthetic>":
            uuid = entry["uuid"]
            whole = entry["message"].get("stop_reason") in ("end_turn", "stop_sequence", "max_tokens")
            text += "".join(b.get("text", "") for b in content if isinstance(b, dict) and b.get("type") == "text")
    return text, uuid, whole


def _is_prompt(content: Any) -> bool:
    return isinstance(content, str) or any(b.get("type") != "tool_result" for b in content or () if isinstance(b, dict))


def answer_of(ledger: Ledger, config_dir: Path, asked: Asked, head: Head) -> Turn | None:
    """A finished turn's answer from the transcript: its text in one piece. None when it is not there. Blocking."""
    text, _, whole = _answer(config_dir, ledger.sessions.get(asked.uuid, ""), asked.uuid)
    if not whole:
        return None
    turn = Turn.ended(Translator(tool_activity="off"), head.model, int(time.time()), head.conversation, asked.uuid)
    turn.events = [Begin(), Text(text), End("stop", UsageView(), tip=asked.answer)]
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
