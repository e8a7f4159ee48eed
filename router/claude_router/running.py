"""Which turns are running, for a server that wants to stop without cutting them off.

running.drain()                        # new turns are refused with 503, /health says so
await running.idle(grace=30.0)       # True: none is left
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Running:
    """Counts the turns between their request and the end of their answer; `with running:` around each."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False
        self._idle: asyncio.Event | None = None

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1
        if self.count == 0 and self._idle is not None:
            self._idle.set()

    def drain(self) -> None:
        """From now on no new turn is taken."""
        self.draining = True

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
