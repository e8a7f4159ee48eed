"""Looking at files now and then, in a thread: what is mounted changes without telling anybody."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Poller:
    """Calls `look` at once, and then every `seconds` until the end. What it raises later is logged, and it goes on."""

    def __init__(self, what: str, look: Callable[[], None], seconds: float) -> None:
        """`what` is looked at, as the thread's name and for the log."""
        self._what = what
        self._look = look
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)

    def begin(self) -> None:
        """Look, and begin the thread. Blocks for the former, whose exceptions are raised."""
        self._look()
        self._thread.start()

    def end(self) -> None:
        """Look no more. Blocks until the thread has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._look()
            except Exception:
                log.exception("%s could not be followed", self._what)
