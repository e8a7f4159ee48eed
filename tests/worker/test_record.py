"""What a turn leaves in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from claude_worker import record
from claude_worker.history import Asked
from claude_worker.ledger import Ledger
from claude_worker.openai.request import CallFunction, CallPart, Message
from claude_worker.prefixes import EMPTY, extend
from claude_worker.turn import Turn
from worker.cli_frames import assistant, begin, result, stop, text, use
from worker.fake import new_turn, reader_of
from worker.test_turn import feed, lifecycle

ASKED = extend(EMPTY, [Message("user", "hello")])
ABORTED = result(terminal_reason="aborted_streaming", is_error=True)
FAILED = result(subtype="error_during_execution", is_error=True, api_error_status=500)


def ended(folder: Path, *lines: dict[str, Any], read: bool = True) -> tuple[Ledger, Asked, Turn]:
    ledger = Ledger(folder)
    ledger.state.claude_session_id, ledger.state.tip, ledger.state.clean = "s", ASKED, False
    turn = new_turn()
    if read:
        reader_of(turn)
    asked = Asked(ASKED, EMPTY, turn.uuid)
    ledger.begin(asked, [])
    feed(turn, lifecycle(turn), *lines)
    turn.end(None)
    ledger.write(record.ended(ledger, asked, turn), ledger.encoded_state())
    return Ledger(folder), asked, turn


def answered(words: str, *calls: str) -> str:
    parts = [CallPart(c, "function", CallFunction("", "")) for c in calls]
    return extend(ASKED, [Message("assistant", words, tool_calls=parts or None)])


ANSWER = [begin(), text("hi there"), *stop("end_turn"), assistant(uuid="a1")]
CALL = [begin(), text("wait"), *use("mcp__client__get", "{}"), assistant(uuid="a1"), *stop()]


@pytest.mark.parametrize(
    ("lines", "state", "answer", "calls"),
    [
        ([*ANSWER, result()], "done", answered("hi there"), ()),
        (CALL, "done", answered("wait", "toolu_1"), ("toolu_1",)),
    ],
)
async def test_a_whole_answer_is_a_place_to_go_on_from(
    lines: list[dict[str, Any]], state: str, answer: str, calls: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, asked, _ = ended(tmp_path, *lines)
    node = ledger.nodes[answer]
    assert (node.session, node.uuid, node.calls, node.cut) == ("s", "a1", calls, "")
    assert (asked.state, asked.answer) == (state, answer)
    assert (ledger.state.tip, ledger.state.clean, ledger.cuts) == (answer, True, {})


async def test_what_was_cut_off_is_known_by_its_beginning(tmp_path: Path) -> None:
    ledger, asked, _ = ended(tmp_path, begin(), text("hi the"), assistant(uuid="a1"), ABORTED)
    assert (asked.state, ledger.cuts[ASKED].cut) == ("interrupted", "hithe")
    assert (ledger.state.tip, ledger.state.clean) == (answered("hi the"), True)


async def test_so_is_a_whole_answer_that_nobody_read_to_its_end(tmp_path: Path) -> None:
    ledger, asked, _ = ended(tmp_path, *ANSWER, result(), read=False)
    assert (asked.state, ledger.cuts[ASKED].cut) == ("done", "hithere")


@pytest.mark.parametrize(
    "lines",
    [
        [begin(), ABORTED],
        [begin(), *use("mcp__client__get", "{}"), assistant(uuid="a1"), *stop(None), ABORTED],
        [*ANSWER, FAILED],
        [],
    ],
)
async def test_what_said_nothing_or_failed_is_no_place(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    ledger, asked, _ = ended(tmp_path, *lines)
    assert asked.state in ("interrupted", "failed")
    assert (ledger.nodes, ledger.state.tip, ledger.state.clean) == ({}, ASKED, False)


async def test_what_it_used_is_counted(tmp_path: Path) -> None:
    ledger, _, turn = ended(tmp_path, *ANSWER, result())
    totals = ledger.state.totals
    assert (totals.input_tokens, totals.output_tokens, totals.cached_tokens) == (33, 7, 20)
    assert (totals.cost_usd, ledger.state.turns) == (turn.translator.cost_usd, 1)
