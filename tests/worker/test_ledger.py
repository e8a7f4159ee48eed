"""The durable side of a conversation's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_worker.history import EMPTY
from claude_worker.ledger import Ledger, VolumeError

A, B = "a" * 32, "b" * 32


def written(volume: Path, *prefixes: str) -> Ledger:
    ledger = Ledger(volume)
    ledger.state.claude_session_id = "s-1"
    ledger.state.turns += 1
    lines = ledger.record(prefixes, "uuid-1")
    ledger.write(lines, ledger.encoded_state())
    return ledger


def test_an_empty_volume_knows_nothing(tmp_path: Path) -> None:
    known = Ledger(tmp_path).known
    assert (known.tip, known.established) == (EMPTY, False)


def test_what_was_written_is_known_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path, A, B)
    again = Ledger(tmp_path)
    assert A in again.known.prefixes
    assert again.known.tip == B
    assert again.known.established
    assert (again.entries[B].session, again.entries[B].uuid) == ("s-1", "uuid-1")
    assert again.state.turns == 1


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    written(tmp_path, A)
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'["bbb')
    assert Ledger(tmp_path).tip == A


def test_what_was_forgotten_is_not_known_after_a_restart_either(tmp_path: Path) -> None:
    ledger = written(tmp_path, A)
    ledger.forget()
    ledger.state.claude_session_id = "s-2"
    ledger.write(ledger.record([B], "uuid-2"), ledger.encoded_state())
    again = Ledger(tmp_path)
    assert set(again.entries) == {B}
    assert again.tip == B


@pytest.mark.parametrize(("state", "message"), [(b'{"version": 99}', "version 99"), (b"{torn", "unreadable")])
def test_a_state_it_cannot_read_is_refused_not_overwritten(tmp_path: Path, state: bytes, message: str) -> None:
    (tmp_path / "state.json").write_bytes(state)
    with pytest.raises(VolumeError, match=message):
        Ledger(tmp_path)
    assert (tmp_path / "state.json").read_bytes() == state
