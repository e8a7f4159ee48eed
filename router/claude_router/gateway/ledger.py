"""Every metered request, on disk: noted when it begins, priced when it ends, each at most once.

One thread writes; what has come meanwhile goes into one transaction. A row is safe from the end of this process as soon
as its transaction is over, and from the end of the machine when the log has been synced, by another thread, right after
that: who waits for a row waits for the former only. A request that has begun and not ended when the process dies stays
in it, unpriced and marked as lost. Nothing that was written is ever written again, but for old rows, which become sums
by day.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from claude_router.gateway import retention
from claude_router.gateway.flags import LOST
from claude_router.gateway.scan import Counted
from claude_router.gateway.syncer import Syncer

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Rows not written yet, above which no further request should begin."""
_RETRY_SECONDS = 1.0
_MOST_AT_ONCE = 1000
_OF_A_ROW = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""SQLite's errors that trying again does not mend; all others are the file's, or the disk's."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, began REAL NOT NULL, ended REAL, team TEXT NOT NULL, session TEXT NOT NULL, pool TEXT NOT NULL,
    model TEXT NOT NULL, message TEXT NOT NULL DEFAULT '', status INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0, output INTEGER NOT NULL DEFAULT 0, cache_read INTEGER NOT NULL DEFAULT 0,
    cache_write_5m INTEGER NOT NULL DEFAULT 0, cache_write_1h INTEGER NOT NULL DEFAULT 0,
    searches INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0, flags TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (began, team);
CREATE INDEX IF NOT EXISTS requests_by_session ON requests (session, began);
CREATE INDEX IF NOT EXISTS requests_open ON requests (id) WHERE ended IS NULL;
"""
_BEGIN = "INSERT OR IGNORE INTO requests (id, began, team, session, pool, model) VALUES (?, ?, ?, ?, ?, ?)"
_END = """
UPDATE requests SET ended = ?, model = ?, message = ?, status = ?, input = ?, output = ?, cache_read = ?,
    cache_write_5m = ?, cache_write_1h = ?, searches = ?, cost = ?, flags = ? WHERE id = ? AND ended IS NULL
"""


class Begun(NamedTuple):
    """A request on its way; `began` is Unix time."""

    id: str
    began: float
    team: str
    session: str
    pool: str
    model: str


class Ended(NamedTuple):
    """What became of it. `model` and `message` are the answer's; `cost` is USD."""

    id: str
    ended: float
    model: str
    message: str
    status: int
    counted: Counted
    cost: float
    flags: str


class LedgerError(Exception):
    """The ledger cannot be used; the message says why."""


Written = Callable[[], None]
"""Called, in the writer's thread, when a row is safe from the process's end."""


class _Beginning(NamedTuple):
    begun: Begun
    written: Written | None


class _Ending(NamedTuple):
    ended: Ended
    written: Written | None


class _Prune(NamedTuple):
    before: float


_Entry = _Beginning | _Ending | _Prune | threading.Event | None


class Ledger:
    """See the module. `begin`, `end`, `prune` and `problem` may be used by any thread and never wait."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: SimpleQueue[_Entry] = SimpleQueue()
        self._problem = ""
        self._closing = threading.Event()
        self._syncer = Syncer(path)
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._lock = contextlib.ExitStack()

    def open(self) -> int:
        """Begin to write; gives how many requests an earlier process has lost. Blocks. Raises LedgerError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                lock = stack.enter_context(self._path.with_name(self._path.name + ".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lost = _prepare(self._path)
                self._lock = stack.pop_all()
        except BlockingIOError as error:
            raise LedgerError(f"{self._path} is another gateway's, which still runs") from error
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"{self._path} cannot be used: {error}") from error
        self._syncer.start()
        self._thread.start()
        return lost

    def close(self) -> None:
        """Return when all is written, or cannot be. Blocks."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._syncer.close()
        self._lock.close()

    def begin(self, begun: Begun, written: Written | None = None) -> None:
        """It is on its way."""
        self._queue.put(_Beginning(begun, written))

    def end(self, ended: Ended, written: Written | None = None) -> None:
        """It is over."""
        self._queue.put(_Ending(ended, written))

    def prune(self, before: float) -> None:
        """Have requests that began before then (a midnight, Unix time) become sums by day, bit by bit."""
        self._queue.put(_Prune(before))

    def flush(self, seconds: float = 10.0) -> bool:
        """Whether all that came before is on disk; waits for it so long. Blocks."""
        written = threading.Event()
        self._queue.put(written)
        return written.wait(seconds)

    @property
    def waiting(self) -> int:
        """How many entries are not written yet, about."""
        return self._queue.qsize()

    @property
    def problem(self) -> str:
        """Why nothing can be written at this moment; empty while it can."""
        return self._problem or self._syncer.problem

    def _write(self) -> None:
        try:
            with contextlib.closing(connect(self._path)) as db:
                db.execute("PRAGMA synchronous = NORMAL")
                self._write_all(db)
        except Exception as error:
            log.exception("the ledger's writer has ended")
            self._problem = f"the writer has ended: {error}"

    def _write_all(self, db: sqlite3.Connection) -> None:
        last = False
        while not last:
            entries, last = self._taken()
            while not self._written(db, entries):
                if self._closing.wait(_RETRY_SECONDS) and not self._written(db, entries):
                    log.error("%d entries of the ledger are lost", len(entries))
                    break
            self._settle(db, entries)

    def _settle(self, db: sqlite3.Connection, entries: Sequence[_Entry]) -> None:
        """What can wait until the rows are written, and whoever waits for them has been told."""
        for entry in entries:
            if isinstance(entry, _Prune):
                try:
                    if retention.fold(db, entry.before):
                        self._queue.put(entry)
                except sqlite3.Error as error:
                    log.error("the ledger cannot be pruned: %s", error)
        self._syncer.ask(*(entry for entry in entries if isinstance(entry, threading.Event)))

    def _taken(self) -> tuple[list[_Entry], bool]:
        """What is there to be written, at least one entry; and whether it is the last."""
        entries = [self._queue.get()]
        with contextlib.suppress(Empty):
            while entries[-1] is not None and len(entries) < _MOST_AT_ONCE:
                entries.append(self._queue.get_nowait())
        return entries, entries[-1] is None

    def _written(self, db: sqlite3.Connection, entries: Sequence[_Entry]) -> bool:
        """Write the rows, and tell those who wait for one; whether it could be done."""
        rows = [entry for entry in entries if isinstance(entry, _Beginning | _Ending)]
        if not rows:
            return True
        try:
            with db:
                db.executemany(_BEGIN, (entry.begun for entry in rows if isinstance(entry, _Beginning)))
                db.executemany(_END, (_parameters(entry.ended) for entry in rows if isinstance(entry, _Ending)))
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_A_ROW):
                if str(error) != self._problem:
                    log.error("the ledger cannot be written: %s", error)
                self._problem = str(error)
                return False
            if len(rows) > 1:
                return all(self._written(db, [row]) for row in rows)
            log.exception("an entry is lost: it does not fit into the ledger")
        self._problem = ""
        for entry in rows:
            if entry.written is not None:
                entry.written()
        return True


def _prepare(path: Path) -> int:
    """Make the table, and mark what an earlier process has left; gives how many. Raises sqlite3.Error."""
    with contextlib.closing(connect(path)) as db, db:
        db.executescript(_SCHEMA + retention.SCHEMA)
        return db.execute("UPDATE requests SET ended = began, flags = ? WHERE ended IS NULL", (LOST,)).rowcount


def _parameters(ended: Ended) -> tuple[object, ...]:
    counted = ended.counted
    return (
        ended.ended, ended.model, ended.message, ended.status, counted.input, counted.output, counted.cache_read,
        counted.cache_write_5m, counted.cache_write_1h, counted.searches, ended.cost, ended.flags, ended.id,
    )  # fmt: skip


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread. Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        db.close()
        raise
    return db
