"""The durable side of a conversation's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_worker import ledger as module
from claude_worker.history import Asked, Node
from claude_worker.ledger import Ledger, VolumeError
from claude_worker.prefixes import EMPTY

A, B, C = "a" * 32, "b" * 32, "c" * 32


def run(ledger: Ledger, asked: str, answer: str, *, uuid: str = "turn-1", cut: str = "", key: str = "k") -> Asked:
    ledger.state.claude_session_id = "s-1"
    turn = Asked(asked, ledger.state.tip, uuid)
    ledger.begin(turn, [key])
    lines = ledger.end(turn, "interrupted" if cut else "done", Node(answer, "s-1", f"m-{uuid}", (), cut))
    ledger.state.tip = answer
    ledger.write(lines, ledger.encoded_state())
    return turn


def test_an_empty_volume_knows_nothing(tmp_path: Path) -> None:
    known = Ledger(tmp_path).known
    assert (known.tip, known.established, known.last) == (EMPTY, False, None)


def test_what_was_written_is_known_after_a_restart(tmp_path: Path) -> None:
    run(Ledger(tmp_path), A, B)
    again = Ledger(tmp_path)
    known = again.known
    assert known.nodes[B] == Node(B, "s-1", "m-turn-1")
    assert (known.tip, known.established) == (B, True)
    assert known.last == known.asked[A] == Asked(A, EMPTY, "turn-1", "done", delivered=True, answer=B)
    assert again.by_key(["other", "k"]) == known.last
    assert again.sessions == {"turn-1": "s-1"}
    assert not again.open


def test_a_turn_without_its_end_is_open(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run(ledger, A, B)
    ledger.begin(Asked(C, B, "turn-2"), [])
    again = Ledger(tmp_path)
    assert list(again.open) == ["turn-2"]
    assert again.open["turn-2"].state == "running"


def test_a_cut_off_answer_is_found_by_what_it_answers(tmp_path: Path) -> None:
    run(Ledger(tmp_path), A, B, cut="beginning")
    assert Ledger(tmp_path).known.cuts[A].prefix == B


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    run(Ledger(tmp_path), A, B)
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'["n","ccc')
    assert set(Ledger(tmp_path).nodes) == {B}


def test_lines_of_another_shape_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(b'["bb","s","u"]\n["e","unknown","done",""]\n[]\n["later", 1]\n')
    assert not Ledger(tmp_path).nodes


def test_what_was_forgotten_is_not_gone_on_from(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run(ledger, A, B)
    ledger.forget()
    assert not ledger.nodes
    assert (ledger.state.tip, ledger.state.claude_session_id) == (EMPTY, "")


def test_it_stays_bounded_on_the_volume_and_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NODES", 5)
    monkeypatch.setattr(module, "MOST_TURNS", 4)
    ledger = Ledger(tmp_path)
    for i in range(40):
        run(ledger, f"{2 * i:032}", f"{2 * i + 1:032}", uuid=f"t{i}", key=f"k{i}", cut="cut" if i % 2 else "")
    for kept in (ledger, Ledger(tmp_path), Ledger(tmp_path)):
        assert [n.uuid for n in kept.nodes.values()] == [f"m-t{i}" for i in range(35, 40)]
        assert list(kept.turns) == ["t36", "t37", "t38", "t39"]
        assert kept.by_key(["k39"]) is kept.last
        assert f"{2 * 39:032}" in kept.cuts
    assert len((tmp_path / "ledger").read_bytes().splitlines()) < 20


@pytest.mark.parametrize(("state", "message"), [(b'{"version": 99}', "version 99"), (b"{torn", "unreadable")])
def test_a_state_it_cannot_read_is_refused_not_overwritten(tmp_path: Path, state: bytes, message: str) -> None:
    (tmp_path / "state.json").write_bytes(state)
    with pytest.raises(VolumeError, match=message):
        Ledger(tmp_path)
    assert (tmp_path / "state.json").read_bytes() == state


def test_a_volume_of_the_version_before_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(
        b'{"version": 1, "claude_session_id": "s-1", "turns": 3, "cli_cost_usd": 0.5}'
    )
    (tmp_path / "ledger").write_bytes(b'["' + A.encode() + b'","s-1","m"]\n')
    known = Ledger(tmp_path).known
    assert (known.established, known.clean, dict(known.nodes)) == (True, False, {})
