"""Rows on disk: once each, whatever ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_router.gateway import retention
from claude_router.gateway.ledger import Begun, Ended, Ledger, LedgerError, connect
from claude_router.gateway.scan import Counted
from claude_router.gateway.usage import By, Used, by_team_and_day, last_sessions, of_session, used

DAY = 86_400.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "deep" / "ledger.sqlite3")
    assert ledger.open() == 0
    yield ledger
    ledger.close()


def begun(number: int, when: float = 0.0, team: str = "red", session: str = "s", model: str = "m") -> Begun:
    return Begun(f"gw_{number}", when, team, session, "pool", model)


def ended(number: int, *, cost: float = 1.0, flags: str = "", model: str = "m") -> Ended:
    return Ended(f"gw_{number}", 9.0, model, "msg", 200, Counted(10, 2, 30, 4, 5), cost, flags)


def eventually(true: Callable[[], bool]) -> None:
    """For what a thread does, which tells nobody."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def path_of(ledger: Ledger) -> Path:
    assert ledger.flush()
    return ledger._path


def test_each_request_counts_once(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.begin(begun(1))
        ledger.end(ended(1))
    ledger.end(ended(1, cost=7.0))
    ledger.begin(begun(2))
    assert used(path_of(ledger), "team") == [Used("red", 2, 1, 0, 49, 2, 30, 9, 1.0)]


def test_by_day_team_session_and_model(ledger: Ledger) -> None:
    rows = [(0.0, "red", "a", "m"), (DAY - 1, "blue", "b", "m"), (DAY, "red", "a", "n")]
    for number, (when, team, session, model) in enumerate(rows):
        ledger.begin(begun(number, when, team, session, model))
        ledger.end(ended(number, model=model))
    path = path_of(ledger)
    assert [(u.key, u.requests, u.cost_usd) for u in used(path, "day")] == [
        ("1970-01-01", 2, 2.0),
        ("1970-01-02", 1, 1.0),
    ]
    assert [(u.key, u.requests) for u in used(path, "team")] == [("blue", 1), ("red", 2)]
    assert [(u.key, u.requests) for u in used(path, "session")] == [("a", 2), ("b", 1)]
    assert [(u.key, u.requests) for u in used(path, "model")] == [("m", 2), ("n", 1)]
    assert [u.requests for u in used(path, "day", since=DAY - 1, until=DAY)] == [1]
    assert [u.key for u in used(path, "session", team="blue")] == ["b"]
    assert [u.key for u in used(path, "team", session="a")] == ["red"]
    assert used(path, "team", team="' OR 1=1 --") == []
    assert sorted((team, day, u.requests) for team, day, u in by_team_and_day(path, DAY - 1)) == [
        ("blue", "1970-01-01", 1), ("red", "1970-01-02", 1),
    ]  # fmt: skip


def test_what_a_dead_process_has_left_is_lost_and_visible(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    first = Ledger(path)
    first.open()
    for number in range(3):
        first.begin(begun(number))
    first.end(ended(0))
    first.close()
    second = Ledger(path)
    assert second.open() == 2
    second.end(ended(1))  # too late: nothing that was written is written again
    second.close()
    assert used(path, "team") == [Used("red", 3, 0, 2, 49, 2, 30, 9, 1.0)]
    third = Ledger(path)
    assert third.open() == 0
    third.close()


def test_unmetered_requests_are_unpriced(ledger: Ledger) -> None:
    for number, flags in enumerate(["unmetered", "estimated", "unmetered,unknown-model"]):
        ledger.begin(begun(number))
        ledger.end(ended(number, flags=flags))
    assert used(path_of(ledger), "team")[0].unpriced == 2


def test_two_gateways_do_not_share_one(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="another gateway"):
        Ledger(path_of(ledger)).open()


def test_a_file_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "odd").open()


def test_it_waits_out_a_disk_that_fails(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_router.gateway.ledger._RETRY_SECONDS", 0.01)
    path = path_of(ledger)
    with contextlib.closing(connect(path)) as db:
        db.execute("ALTER TABLE requests RENAME TO away")
        ledger.begin(begun(1))
        ledger.end(ended(1))
        assert not ledger.flush(0.2)
        assert "no such table" in ledger.problem
        db.execute("ALTER TABLE away RENAME TO requests")
    assert used(path_of(ledger), "team")[0].requests == 1
    assert ledger.problem == ""


WRITER = """
import sys
from pathlib import Path
from claude_router.gateway import retention
from claude_router.gateway.ledger import Begun, Ended, Ledger
from claude_router.gateway.scan import Counted
ledger = Ledger(Path(sys.argv[1]))
ledger.open()
for number in range(10**9):
    ledger.begin(Begun(f"{number}", 0.0, "red", "s", "p", "m"))
    ledger.end(Ended(f"{number}", 1.0, "m", "", 200, Counted(1), 1.0, ""))
    if number % 50 == 0:
        ledger.flush()
        print(number, flush=True)
"""


def test_what_is_on_disk_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=env
    ) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(5)][-1]
        writer.send_signal(signal.SIGKILL)
    again = Ledger(path)
    lost = again.open()
    again.close()
    (sums,) = used(path, "team")
    assert sums.requests >= told + 1
    assert sums.cost_usd == sums.requests - lost
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_row_is_told_of_when_it_is_in_the_database(ledger: Ledger) -> None:
    path, seen, told = path_of(ledger), [], threading.Event()

    def written() -> None:
        seen.append(used(path, "team"))
        told.set()

    ledger.begin(begun(1))
    ledger.end(ended(1), written)
    assert told.wait(10)
    assert [u.cost_usd for u in seen[0]] == [1.0]


def test_a_disk_that_is_slow_to_sync_does_not_keep_rows_from_being_written(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(ledger)
    hangs, goes_on, told = threading.Event(), threading.Event(), threading.Event()

    def sync(file: int) -> None:
        hangs.set()
        goes_on.wait(10)

    monkeypatch.setattr("claude_router.gateway.syncer.os.fdatasync", sync)
    ledger.begin(begun(1))
    assert hangs.wait(10)
    ledger.begin(begun(2), told.set)
    assert told.wait(10)
    assert used(path, "team")[0].running == 2
    assert not ledger.flush(0.1)
    goes_on.set()
    assert ledger.flush()


def test_a_disk_that_cannot_be_synced_is_told_of_until_it_can(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError("no disk")

    monkeypatch.setattr("claude_router.gateway.syncer._RETRY_SECONDS", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr("claude_router.gateway.syncer.os.fdatasync", fail)
        ledger.begin(begun(1))
        assert ledger.flush()
        assert "no disk" in ledger.problem
    eventually(lambda: ledger.problem == "")  # though nothing is written that would ask for it


def test_an_entry_that_does_not_fit_costs_no_other(ledger: Ledger) -> None:
    path = path_of(ledger)
    with contextlib.closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")  # so that all come in one transaction
        for number in range(3):
            ledger.begin(begun(number))
        ledger.end(Ended("gw_0", 9.0, "m", "", 200, Counted(2**63), 1.0, ""))
        ledger.end(ended(1))
        ledger.end(Ended("gw_2", 9.0, None, "", 200, Counted(), 1.0, ""))  # type: ignore[arg-type]
        db.execute("ROLLBACK")
    assert used(path_of(ledger), "team") == [Used("red", 3, 2, 0, 49, 2, 30, 9, 1.0)]
    assert ledger.problem == ""


def test_a_writer_that_has_ended_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    monkeypatch.setattr(Ledger, "_write_all", lambda *_: 1 / 0)
    ledger.open()
    eventually(lambda: "writer has ended" in ledger.problem)
    ledger.close()


def test_it_closes_though_the_disk_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.open()
    with contextlib.closing(connect(path_of(ledger))) as db:
        db.execute("ALTER TABLE requests RENAME TO away")
    ledger.begin(begun(1))
    eventually(lambda: "no such table" in ledger.problem)
    ledger.close()
    assert "1 entries of the ledger are lost" in caplog.text


def test_what_is_flushed_has_been_pruned(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = []

    def fold(*_: object) -> bool:
        threading.Event().wait(0.05)
        folded.append(True)
        return False

    monkeypatch.setattr(retention, "fold", fold)
    ledger.prune(0.0)
    assert ledger.flush()
    assert folded == [True]


def fill(ledger: Ledger) -> Path:
    """Two days: 1970-01-01 with five requests, and the next with two."""
    rows = [
        (0.0, "red", "m", ""), (1.0, "red", "m", "unmetered"), (DAY - 1, "red", "n", ""), (5.0, "blue", "m", "lost"),
        (6.0, "red", "m", "estimated"), (DAY, "red", "m", ""), (DAY + 7, "blue", "m", ""),
    ]  # fmt: skip
    for number, (when, team, model, flags) in enumerate(rows):
        ledger.begin(begun(number, when, team, model=model))
        ledger.end(ended(number, model=model, flags=flags))
    return path_of(ledger)


VIEWS: list[tuple[By, dict[str, Any]]] = [
    ("day", {}), ("team", {}), ("model", {}), ("day", {"team": "red"}), ("model", {"team": "blue"}),
    ("team", {"since": 0.0, "until": DAY}), ("team", {"since": DAY}), ("day", {"since": DAY, "until": 2 * DAY}),
]  # fmt: skip


@pytest.mark.parametrize("most", [1, 2, 100])
def test_old_requests_become_sums_that_say_the_same_but_of_sessions(ledger: Ledger, most: int) -> None:
    path = fill(ledger)
    before = [used(path, by, **options) for by, options in VIEWS]
    spent = sorted(by_team_and_day(path, 0.0))
    with contextlib.closing(connect(path)) as db:
        while retention.fold(db, DAY, most):
            pass
        assert db.execute("SELECT min(began), count(*) FROM requests").fetchone() == (DAY, 2)
    assert [used(path, by, **options) for by, options in VIEWS] == before
    assert sorted(by_team_and_day(path, 0.0)) == spent
    assert [u.requests for u in used(path, "session")] == [2]
    assert used(path, "team", since=3600.0, until=DAY / 2) == used(path, "team", until=DAY)
    with contextlib.closing(connect(path)) as db:
        assert not retention.fold(db, 2 * DAY)
    assert [used(path, by, **options) for by, options in VIEWS] == before


def test_the_writer_prunes_beside_its_work_and_leaves_what_runs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_MOST_AT_ONCE", 1)
    monkeypatch.setattr(retention.fold, "__defaults__", (1,))
    path = fill(ledger)
    ledger.begin(begun(90, 1.0))
    ledger.prune(retention.oldest_kept(DAY * 11.5, 10))
    for number in range(91, 99):
        ledger.begin(begun(number, DAY))
        path_of(ledger)
    assert {u.requests for u in used(path, "session")} == {11}
    assert sum(u.requests for u in used(path, "day")) == 16
    assert used(path, "team", team="red")[0].running == 9


def test_what_sessions_used_in_a_time_and_who_was_last(ledger: Ledger) -> None:
    rows = [(10.0, "a"), (20.0, "a"), (30.0, "b"), (40.0, "a")]
    for number, (when, session) in enumerate(rows):
        ledger.begin(begun(number, when, session=session))
        ledger.end(ended(number))
    path = path_of(ledger)
    assert of_session(path, "a", 20.0, 40.0).cost_usd == 1.0
    assert of_session(path, "c", 0.0, 99.0) == Used("c")
    assert sorted(last_sessions(path, 10.0)) == ["a", "b"]
    assert last_sessions(path, 5.0) == ["a"]
