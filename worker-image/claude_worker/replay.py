"""Finished answers, kept for a bounded time and within a bounded size for clients that ask for them again."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from claude_worker.turn import Turn

MOST_CHARACTERS = 16 * 1024 * 1024


class Replays:
    """Turns by their uuid. `seconds`: how long each is kept; `clock` gives seconds that only grow."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, int, Turn]] = OrderedDict()
        self._size = 0

    def keep(self, turn: Turn) -> None:
        """Keep a turn that has ended well."""
        if turn.error is None and not turn.kept_from and self._seconds:
            self._kept[turn.uuid] = (self._clock() + self._seconds, turn.size, turn)
            self._size += turn.size
        self._prune()

    def get(self, uuid: str) -> Turn | None:
        """The turn, while it is kept."""
        self._prune()
        found = self._kept.get(uuid)
        return found[2] if found else None

    def _prune(self) -> None:
        now = self._clock()
        while self._kept:
            until, size, _ = next(iter(self._kept.values()))
            if until > now and self._size <= MOST_CHARACTERS:
                return
            self._kept.popitem(last=False)
            self._size -= size
