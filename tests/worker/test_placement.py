"""Until when the CLI's memory is on the volume."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from claude_worker import placement
from claude_worker.history import Asked, Node
from claude_worker.ledger import Ledger
from claude_worker.prefixes import EMPTY

A, B = "a" * 32, "b" * 32


def answered(volume: Path) -> Ledger:
    ledger = Ledger(volume)
    ledger.state.claude_session_id = "s"
    turn = Asked(A, EMPTY, "t")
    ledger.begin(turn, [])
    ledger.end(turn, "done", Node(B, "s", "m"))
    ledger.state.tip = B
    return ledger


async def test_a_first_answer_is_waited_for_though_there_is_no_transcript_yet(tmp_path: Path) -> None:
    waiting = asyncio.create_task(placement.flushed(answered(tmp_path), tmp_path))
    folder = tmp_path / "projects" / "w"
    await asyncio.to_thread(folder.mkdir, parents=True)
    transcript = folder / "s.jsonl"
    await asyncio.to_thread(transcript.write_text, '{"uuid": "other"}\n')
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    await asyncio.to_thread(transcript.write_text, '{"uuid": "other"}\n{"uuid": "m"}\n')
    async with asyncio.timeout(5):
        await waiting


async def test_one_that_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "_FLUSH_SECONDS", 0.05)
    await placement.flushed(answered(tmp_path), tmp_path)
    assert "has not written message m" in caplog.text


async def test_a_conversation_without_an_answer_is_not_waited_for(tmp_path: Path) -> None:
    async with asyncio.timeout(1):
        await placement.flushed(Ledger(tmp_path), tmp_path)
