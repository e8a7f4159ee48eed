"""What the worker says about itself: `GET /status`, and every change of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

from claude_worker.frames import Frame
from claude_worker.ledger import State
from claude_worker.openai.errors import ApiError

Phase = Literal["warm", "bound", "draining", "drained", "failed"]

_WAKE_SECONDS = 1.0


class Status:
    """The counters behind busy and idle. Silence on the wire is not idleness: background tasks count as work."""

    def __init__(self, state: State, cli_version: str) -> None:
        self._state = state
        self._phase: Phase = "bound" if state.claude_session_id else "warm"
        self._turns = 0
        self._queued = 0
        self._asides = 0
        self._tasks = 0
        self._cli_running = False
        self._waking: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._error: str | None = None
        self.cli_version = cli_version

    @property
    def busy(self) -> bool:
        return bool(self._turns or self._queued or self._asides or self._tasks or self._cli_running or self._waking)

    @property
    def ending(self) -> bool:
        return self._phase in ("draining", "drained", "failed")

    @property
    def ready(self) -> bool:
        return self._phase in ("warm", "bound")

    def view(self) -> dict[str, Any]:
        """The JSON of `GET /status`."""
        state = self._state
        return {
            "phase": self._phase,
            "busy": self.busy,
            "queued": self._queued,
            "background_tasks": self._tasks,
            "last_active": state.last_active,
            "turns": state.turns,
            "usage": {
                "input_tokens": state.totals.input_tokens,
                "output_tokens": state.totals.output_tokens,
                "cached_tokens": state.totals.cached_tokens,
                "cost_usd": round(state.totals.cost_usd, 6),
            },
            "claude_session_id": state.claude_session_id or None,
            "cli_version": self.cli_version,
            "error": self._error,
        }

    async def watch(self) -> AsyncIterator[dict[str, Any]]:
        """The view now, and again after every change; ends when the worker has drained."""
        while True:
            changed = self._changed
            yield self.view()
            if self._phase == "drained":
                return
            await changed.wait()

    def _publish(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- what happens --------------------------------------------------------------------------------------------

    def set_phase(self, phase: Phase) -> None:
        self._phase = phase
        self._publish()

    def fail(self, error: str) -> None:
        """This worker is of no use any more."""
        self._error = error
        self.set_phase("failed")

    def begin_turn(self) -> None:
        self._turns += 1
        self._active()

    def end_turn(self) -> None:
        self._turns -= 1
        self._active()

    def _active(self) -> None:
        self._state.last_active = time.time()
        self._publish()

    @asynccontextmanager
    async def waiting(self, limit: int) -> AsyncIterator[None]:
        """Count a request that waits for its turn. Raises ApiError (429) when `limit` already wait."""
        if self._queued >= limit and (self._turns or self._queued):
            raise ApiError(429, f"{limit} requests already wait for this conversation.", code="conversation_busy",
                           retry=True, retry_after=2)  # fmt: skip
        self._queued += 1
        if self._turns:
            self._publish()
        try:
            yield
        finally:
            self._queued -= 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count a side task while it runs."""
        self._asides += 1
        self._active()
        try:
            yield
        finally:
            self._asides -= 1
            self._active()

    def observe(self, frame: Frame) -> None:
        """Take a `system` frame of the CLI."""
        if frame.subtype == "session_state_changed":
            self._set_running(frame.state != "idle")
        elif frame.subtype == "background_tasks_changed":
            self._set_tasks(len(frame.tasks or []))
        elif frame.subtype == "init" and frame.claude_code_version:
            self.cli_version = frame.claude_code_version

    def _set_tasks(self, count: int) -> None:
        if self._tasks and not count:
            # The CLI takes up a turn of its own about the ended task, but says so only some 60 ms later.
            self._waking = asyncio.get_running_loop().call_later(_WAKE_SECONDS, self._awake)
        self._tasks = count
        self._active()

    def _awake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
            self._active()

    def _set_running(self, running: bool) -> None:
        if running:
            self._awake()
        if running != self._cli_running:
            self._cli_running = running
            # Within a turn this changes nothing that anyone sees.
            if not self._turns:
                self._active()

    def cli_gone(self) -> None:
        """The process ended: nothing of it runs any more."""
        self._tasks = 0
        self._cli_running = False
        self._awake()
        self._publish()

    async def until_cli_idle(self) -> None:
        """Wait while the CLI works on something that no request asked for."""
        while self._cli_running:
            await self._changed.wait()
