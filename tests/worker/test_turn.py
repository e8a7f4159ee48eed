"""A turn and those who read it."""

from __future__ import annotations

from typing import Any

import pytest

from claude_worker import turn as module
from claude_worker.events import End, Event, Text, UsageView
from claude_worker.openai.chunks import ChatWriter
from claude_worker.openai.errors import ApiError
from claude_worker.turn import Reader, Turn
from worker.cli_frames import begin, frame, result, stop, text
from worker.fake import new_turn, reader_of


def lifecycle(turn: Turn, state: str = "started") -> dict[str, Any]:
    return {"type": "command_lifecycle", "command_uuid": turn.prompt, "state": state}


def feed(turn: Turn, *lines: dict[str, Any]) -> None:
    for line in lines:
        turn.feed(frame(line))


async def read(reader: Reader) -> bytes:
    """All that a reader of an ended turn gets."""
    pieces = []
    while data := await reader.outbox.take():
        pieces.append(data)
    return b"".join(pieces)


async def test_frames_before_its_prompt_has_started_are_not_its_own() -> None:
    turn = new_turn()
    feed(turn, begin(), text("the CLI's own"), result())
    assert (turn.events, turn.over.is_set()) == ([], False)
    feed(turn, lifecycle(turn), begin("m2"), text("mine"), *stop("end_turn"), result())
    assert turn.over.is_set()
    assert [e.text for e in turn.events if isinstance(e, Text)] == ["mine"]


async def test_who_joins_late_gets_the_same_bytes() -> None:
    turn = new_turn()
    first = reader_of(turn)
    feed(turn, lifecycle(turn), begin(), text("one "))
    other = new_turn()
    second = reader_of(other)
    second.follow(turn)
    feed(turn, text("two"), *stop("end_turn"), result())
    third = reader_of(other)
    third.follow(turn)
    said = [await read(reader) for reader in (first, second, third)]
    assert said[0] == said[1] == said[2]
    assert b"two" in said[0]
    assert not other.readers


async def test_an_answer_that_was_not_kept_from_its_start_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 5)
    turn = new_turn()
    reader = reader_of(turn)
    turn.put([Text("too much to keep")])
    assert (turn.events, turn.kept_from) == ([], 1)
    with pytest.raises(ApiError) as refusal:
        reader_of(new_turn()).follow(turn)
    assert (refusal.value.status, refusal.value.code) == (409, "turn_not_replayable")
    assert reader in turn.readers


async def test_it_is_kept_for_one_that_wants_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 5)
    turn = new_turn()
    Reader(turn, lambda head: ChatWriter(head, include_usage=False), None)
    turn.put([Text("too much to keep")])
    assert turn.events == [Text("too much to keep")]


async def test_its_end_tells_the_history() -> None:
    turn = new_turn()
    turn.tip_of = lambda: "f" * 32
    events: list[Event] = [End("stop", UsageView())]
    turn.put(events)
    assert turn.events == [End("stop", UsageView(), tip="f" * 32)]


async def test_only_the_last_reader_that_leaves_is_told() -> None:
    turn = new_turn()
    told: list[int] = []
    turn.unwatched = lambda: told.append(len(turn.readers))
    readers = [reader_of(turn), reader_of(turn)]
    readers[0].leave()
    assert told == []
    readers[1].leave()
    assert told == [0]


@pytest.mark.parametrize("stays", [True, False])
async def test_it_knows_whether_anyone_read_its_end(stays: bool) -> None:
    turn = new_turn()
    reader = reader_of(turn)
    feed(turn, lifecycle(turn), begin(), text("one"))
    if not stays:
        reader.leave()
    feed(turn, *stop("end_turn"), result())
    assert turn.unread is not stays


async def test_a_prompt_that_was_dropped_was_interrupted() -> None:
    turn = new_turn()
    feed(turn, lifecycle(turn, "cancelled"))
    assert turn.error is not None
    assert turn.error.code == "turn_interrupted"


async def test_only_the_first_end_counts() -> None:
    turn = new_turn()
    turn.abandon()
    turn.end(None)
    turn.put([Text("late")])
    assert turn.error is not None
    assert (turn.error.code, turn.events, turn.over.is_set()) == ("client_left", [], True)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_not_tried_for_minutes(status: int) -> None:
    turn = new_turn()
    feed(turn, lifecycle(turn), {"type": "system", "subtype": "api_retry", "error_status": status})
    assert (turn.closed, turn.credential_accepted) == (True, False)
