"""What the transcript tells of turns whose end was never written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claude_worker import recovery
from claude_worker.events import Arguments, End, Text, ToolCall
from claude_worker.history import Asked, Node
from claude_worker.ledger import Ledger
from claude_worker.openai.chunks import Head
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import CallFunction, CallPart, Message
from claude_worker.prefixes import EMPTY, extend
from claude_worker.settings import WorkerSettings

SESSION = "s-1"
ASKED = extend(EMPTY, [Message("user", "hello")])
Entry = dict[str, Any]


def prompt(uuid: str = "t-1", text: str = "hello", **more: Any) -> Entry:
    return {
        "type": "user",
        "uuid": uuid,
        "message": {"role": "user", "content": [{"type": "text", "text": text}]},
    } | more


def said(uuid: str, *content: Entry, reason: str | None = "end_turn", model: str = "m", message: str = "") -> Entry:
    told = {"id": message or uuid, "role": "assistant", "model": model, "stop_reason": reason, "content": list(content)}
    return {"type": "assistant", "uuid": uuid, "message": told}


def text(words: str) -> Entry:
    return {"type": "text", "text": words}


def use(call: str, name: str, **given: Any) -> Entry:
    return {"type": "tool_use", "id": call, "name": name, "input": given}


def came(call: str, words: str = "ok", uuid: str = "r", *, error: bool = False) -> Entry:
    block = {"type": "tool_result", "tool_use_id": call, "content": words, "is_error": error}
    return {"type": "user", "uuid": uuid, "message": {"role": "user", "content": [block]}}


OWN = [
    prompt(),
    said("a1", text("before"), reason="tool_use", message="m1"),
    said("a2", use("toolu_1", "Bash", command="ls"), reason="tool_use", message="m1"),
    came("toolu_1"),
    {**said("x", text("a subagent's")), "isSidechain": True},
    {**prompt("meta", "the CLI's own"), "isMeta": True},
    said("a3", text("after")),
]
CALLS = [
    prompt(),
    said("a1", text("let me see"), reason="tool_use", message="m1"),
    said("a2", use("toolu_1", "mcp__client__get", x=1), reason="tool_use", message="m1"),
    said("a3", use("toolu_2", "mcp__client__put"), reason="tool_use", message="m1"),
]
SCHEMA = [
    prompt(),
    said("a1", text("beside it"), use("toolu_1", "StructuredOutput", b=0), reason="tool_use"),
    came("toolu_1", "no", error=True),
    said("a2", use("toolu_2", "StructuredOutput", a=7), reason="tool_use"),
    came("toolu_2", uuid="r2"),
]


class Volume:
    """A volume that a worker left in the middle of the turn `t-1`."""

    def __init__(self, folder: Path, entries: list[Entry]) -> None:
        self.settings = WorkerSettings(volume_dir=str(folder))
        self.path = folder / "claude" / "projects" / "w" / f"{SESSION}.jsonl"
        self.path.parent.mkdir(parents=True)
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        before = Ledger(folder)
        before.state.claude_session_id = SESSION
        before.write([], before.encoded_state())
        before.begin(Asked(ASKED, EMPTY, "t-1"), ["k"])
        self.folder = folder

    def judged(self) -> Ledger:
        ledger = Ledger(self.folder)
        recovery.judge(ledger, self.settings)
        return ledger


def answered(words: str, *calls: str) -> str:
    parts = [CallPart(c, "function", CallFunction("", "")) for c in calls]
    return extend(ASKED, [Message("assistant", words, tool_calls=parts or None)])


@pytest.mark.parametrize(
    ("entries", "answer", "uuid", "calls"),
    [
        ([prompt(), said("a1", text("hi"))], answered("hi"), "a1", ()),
        (OWN, answered("before after"), "a3", ()),
        (CALLS, answered("let me see", "toolu_1", "toolu_2"), "a3", ("toolu_1", "toolu_2")),
        ([*CALLS, came("toolu_1", "interrupted", error=True)], answered("let me see", "toolu_1", "toolu_2"), "a3",
         ("toolu_1", "toolu_2")),
        (SCHEMA, answered('{"a":7}'), "r2", ()),
        ([prompt("t-0", "other"), said("a0", text("other's")), *OWN, prompt("t-2", "next"), said("a9", text("no"))],
         answered("before after"), "a3", ()),
    ],
)  # fmt: skip
def test_a_whole_answer_makes_the_turn_done(
    tmp_path: Path, entries: list[Entry], answer: str, uuid: str, calls: tuple[str, ...]
) -> None:
    volume = Volume(tmp_path, entries)
    for ledger in (volume.judged(), volume.judged()):
        assert ledger.nodes[answer] == Node(answer, SESSION, uuid, calls)
        assert (ledger.state.tip, ledger.state.clean) == (answer, True)
        assert ledger.turns["t-1"].state == "done"
        assert not ledger.open


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [prompt("t-0"), said("a1", text("hi"))],
        [prompt()],
        OWN[:3],
        OWN[:4],
        SCHEMA[:3],
        [prompt(), said("a1", text("cut"), reason=None), prompt("i", "[Request interrupted by user]")],
        [prompt(), said("a1", text("API Error"), model="<synthetic>")],
    ],
)
def test_a_turn_without_a_whole_answer_is_lost(tmp_path: Path, entries: list[Entry]) -> None:
    ledger = Volume(tmp_path, entries).judged()
    assert ledger.turns["t-1"].state == "lost"
    assert (ledger.state.tip, ledger.state.clean, ledger.nodes) == (ASKED, False, {})


def test_a_turn_that_brought_results_begins_after_the_calls(tmp_path: Path) -> None:
    """The CLI waited for them, so there is no prompt of its own."""
    volume = Volume(tmp_path, [*CALLS, came("toolu_1"), came("toolu_2"), said("a4", text("done"))])
    ledger = volume.judged()
    calls = ledger.state.tip
    turn = Asked(extend(calls, [Message("tool", "ok", tool_call_id="toolu_1")]), calls, "t-2")
    ledger.begin(turn, [])
    answer = extend(turn.prefix, [Message("assistant", "done")])
    again = volume.judged()
    assert again.nodes[answer] == Node(answer, SESSION, "a4")
    assert (again.state.tip, again.state.clean) == (answer, True)


def test_a_state_that_is_older_than_the_last_turn_catches_up(tmp_path: Path) -> None:
    volume = Volume(tmp_path, OWN)
    old = (tmp_path / "state.json").read_bytes()
    volume.judged()
    (tmp_path / "state.json").write_bytes(old)
    assert (volume.judged().state.tip, volume.judged().state.clean) == (answered("before after"), True)


def test_one_that_has_moved_on_does_not(tmp_path: Path) -> None:
    volume = Volume(tmp_path, OWN)
    ledger = volume.judged()
    ledger.state.claude_session_id, ledger.state.tip = "s-2", EMPTY
    ledger.write([], ledger.encoded_state())
    assert volume.judged().state.tip == EMPTY


@pytest.mark.parametrize(("activity", "words"), [("off", "before\n\nafter"), ("text", "before\n> Bash: ls\nafter")])
async def test_an_answer_is_told_again_as_it_was(tmp_path: Path, activity: str, words: str) -> None:
    volume = Volume(tmp_path, OWN)
    volume.settings = WorkerSettings(volume_dir=str(tmp_path), tool_activity=activity)
    ledger = volume.judged()
    asked = ledger.turns["t-1"]
    answer = recovery.answer_of(ledger, volume.settings, asked)
    assert answer is not None
    turn = recovery.told_again(asked, answer, Head("x", 1, "claude-code", "c"))
    assert turn is not None
    assert "".join(e.text for e in turn.events if isinstance(e, Text)) == words
    assert isinstance(turn.events[-1], End)
    assert (turn.uuid, turn.closed, turn.events[-1].tip) == ("t-1", True, asked.answer)


def test_and_its_calls(tmp_path: Path) -> None:
    volume = Volume(tmp_path, CALLS)
    ledger = volume.judged()
    answer = recovery.answer_of(ledger, volume.settings, ledger.turns["t-1"])
    assert answer is not None
    assert answer.events[-4:] == [
        ToolCall(0, "toolu_1", "get"), Arguments(0, '{"x":1}'), ToolCall(1, "toolu_2", "put"), Arguments(1, "{}"),
    ]  # fmt: skip
    assert answer.translator.finish_reason == "tool_calls"


async def test_another_answer_than_the_clients_is_not_told(tmp_path: Path) -> None:
    volume = Volume(tmp_path, OWN)
    ledger = volume.judged()
    asked = ledger.turns["t-1"]
    asked.answer = EMPTY
    answer = recovery.answer_of(ledger, volume.settings, asked)
    assert answer is not None
    assert recovery.told_again(asked, answer, Head("x", 1, "claude-code")) is None


def test_a_conversation_goes_on_from_any_message(tmp_path: Path) -> None:
    volume = Volume(tmp_path, OWN)
    ledger = volume.judged()
    for at, tip, clean in (("a3", answered("before after"), True), ("a1", EMPTY, False)):
        recovery.go_to(ledger, volume.settings.config_dir, at)
        assert ledger.state.fork == (SESSION, at)
        assert (ledger.state.tip, ledger.state.clean) == (tip, clean)
    with pytest.raises(ApiError, match="No message 'a7'"):
        recovery.go_to(ledger, volume.settings.config_dir, "a7")
