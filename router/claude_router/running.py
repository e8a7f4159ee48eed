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
from weakref import WeakValueDictionary

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
        self._sent: dict[str, int] = {}
        """Turns of a conversation that may be at its worker."""
        self._ended: dict[str, float] = {}
        """When the last of those ended, in that order; no longer than it matters."""
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
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
        else:
            del self._conversations[name]

    def has(self, name: str) -> bool:
        """Whether a turn of this conversation runs or waits."""
        return name in self._conversations

    async def give_way(self, name: str, crowded: Callable[[], bool]) -> None:
        """Return when a turn of the conversation may be sent to its worker; `over` is to be called after it.

        While others wait for a worker, turns of one conversation are sent one at a time, in the order in which they
        came, and with a rest in between: else its worker would never be seen idle, so never make way.
        """
        if self._rest(name) and crowded():
            gate = self._gates.setdefault(name, asyncio.Lock())
            async with gate:
                while (pause := self._rest(name)) and crowded():  # noqa: ASYNC110 - that it is over tells nobody
                    await asyncio.sleep(pause)
        self._sent[name] = self._sent.get(name, 0) + 1

    def over(self, name: str) -> None:
        """A turn that was sent has ended, or its client has left."""
        if (left := self._sent[name] - 1) > 0:
            self._sent[name] = left
            return
        del self._sent[name]
        now = self._clock()
        self._ended.pop(name, None)
        self._ended[name] = now
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now - REST_SECONDS:
            del self._ended[oldest]

    def _rest(self, name: str) -> float:
        """For how many seconds at least nothing of the conversation should be sent."""
        if name in self._sent:
            return REST_SECONDS
        return max(0.0, self._ended[name] + REST_SECONDS - self._clock()) if name in self._ended else 0.0

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
