"""Which turns are running, for a server that wants to stop without cutting them off.

running.announce()                     # /health says that it ends; turns are still taken
running.drain()                        # new turns are refused with 503, too
await running.idle(grace=30.0)       # True: none is left
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

REST_SECONDS = 0.25
"""Long enough for a pool, here or on a cluster, to see that a worker is idle and to take it for somebody who waits."""


class Running:
    """Counts the turns between their request and the end of their answer; `with running:` around each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self.ending = False
        """Whether no more turns should be sent here."""
        self.draining = False
        """Whether none is taken."""
        self._conversations: dict[str, int] = {}
        self._clock = clock
        self._ended: dict[str, float] = {}
        """When the last turn of a conversation ended, in that order; no longer than it matters."""
        self._idle: asyncio.Event | None = None

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1
        if self.count == 0 and self._idle is not None:
            self._idle.set()

    def begin(self, name: str) -> None:
        """A turn of this conversation begins to run, or to wait."""
        self._conversations[name] = self._conversations.get(name, 0) + 1

    def end(self, name: str) -> None:
        """One that had begun is over."""
        if (left := self._conversations[name] - 1) > 0:
            self._conversations[name] = left
            return
        del self._conversations[name]
        now = self._clock()
        self._ended.pop(name, None)
        self._ended[name] = now
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now - REST_SECONDS:
            del self._ended[oldest]

    def rest(self, name: str) -> float:
        """For how many seconds the conversation should yet rest while others wait for a worker.

        One turn right after the other would keep its worker from ever being seen idle, so from ever making way. A
        turn that comes while another of its conversation runs is in that one's line at the worker, and does not rest.
        """
        if self._conversations.get(name, 0) > 1 or name not in self._ended:
            return 0.0
        return max(0.0, self._ended[name] + REST_SECONDS - self._clock())

    def has(self, name: str) -> bool:
        """Whether a turn of this conversation runs or waits."""
        return name in self._conversations

    def announce(self) -> None:
        """The end is near: whoever asks is told to send nothing more, but what comes is still taken."""
        self.ending = True

    def drain(self) -> None:
        """From now on no new turn is taken."""
        self.ending = self.draining = True

    async def idle(self, grace: float | None = None) -> bool:
        """Wait until no turn runs, at most `grace` seconds. Whether none does."""
        if self.count:
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), grace)
            except TimeoutError:
                return False
        return True
