"""Has a SQLite log synced beside whoever writes it: a slow disk must not keep the next row from being written."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from pathlib import Path
from queue import Empty, SimpleQueue

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class Syncer:
    """A thread of its own. What is asked for while a sync runs is done by one more; one that failed is tried again."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + "-wal")
        self._asked: SimpleQueue[tuple[threading.Event, ...] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger-sync", daemon=True)
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the last sync failed; empty if it did not."""
        return self._problem

    def start(self) -> None:
        """Begin to sync when asked."""
        self._thread.start()

    def ask(self, *done: threading.Event) -> None:
        """Set these when all that was written before is safe from the machine's end. Never waits."""
        self._asked.put(done)

    def close(self) -> None:
        """Return when all that was asked for is done. Blocks."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            file, last = -1, False
            while not last:
                asked = self._taken()
                last = None in asked
                try:
                    # SQLite makes the file with the first row, and keeps it as long as a connection is there.
                    if file < 0 and self._path.exists():
                        file = os.open(self._path, os.O_RDWR)
                        stack.callback(os.close, file)
                    if file >= 0:
                        os.fdatasync(file)
                    self._problem = ""
                except OSError as error:
                    if str(error) != self._problem:
                        log.error("the ledger cannot be synced: %s", error)
                    self._problem = str(error)
                for done in itertools.chain.from_iterable(each or () for each in asked):
                    done.set()

    def _taken(self) -> list[tuple[threading.Event, ...] | None]:
        asked: list[tuple[threading.Event, ...] | None] = []
        with contextlib.suppress(Empty):
            asked.append(self._asked.get(timeout=_RETRY_SECONDS if self._problem else None))
            while asked[-1] is not None:
                asked.append(self._asked.get_nowait())
        return asked
