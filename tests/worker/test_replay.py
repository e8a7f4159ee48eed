"""Finished answers that are kept."""

from __future__ import annotations

import pytest

from claude_worker import replay
from claude_worker.openai.errors import ApiError
from claude_worker.replay import Replays
from claude_worker.turn import Turn
from worker.fake import new_turn


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def finished(size: int = 10, error: ApiError | None = None) -> Turn:
    turn = new_turn()
    turn.size = size
    turn.close(error)
    return turn


async def test_an_answer_is_kept_for_its_time() -> None:
    clock = Clock()
    replays = Replays(60, clock)
    turn = finished()
    replays.keep(turn)
    clock.now = 59
    assert replays.get(turn.uuid) is turn
    clock.now = 60
    assert replays.get(turn.uuid) is None


async def test_the_oldest_go_first_when_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST_CHARACTERS", 25)
    replays = Replays(60, Clock())
    turns = [finished() for _ in range(4)]
    for turn in turns:
        replays.keep(turn)
    assert [replays.get(turn.uuid) for turn in turns] == [None, None, *turns[2:]]


async def test_what_failed_or_was_dropped_is_not_kept() -> None:
    replays = Replays(60, Clock())
    failed, dropped = finished(error=ApiError(500, "no", code="x")), finished()
    dropped.kept_from = 1
    for turn in (failed, dropped):
        replays.keep(turn)
        assert replays.get(turn.uuid) is None


async def test_nothing_is_kept_for_no_time() -> None:
    replays = Replays(0, Clock())
    turn = finished()
    replays.keep(turn)
    assert replays.get(turn.uuid) is None
