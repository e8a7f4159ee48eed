"""What the worker says about itself: `GET /status`, and every change of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Literal

from claude_worker.frames import Frame
from claude_worker.ledger import State
from claude_worker.openai.errors import ApiError

Phase = Literal["warm", "bound", "draining", "drained", "failed"]

Problem = Literal["key_refused"]

_WAKE_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0


class Status:
    """The counters behind busy and idle. Silence on the wire is not idleness: background tasks count as work."""

    def __init__(self, state: State, cli_version: str) -> None:
        self._state = state
        self._phase: Phase = "bound" if state.claude_session_id else "warm"
        self._turns = 0
        self._preparing = 0
        self._queued = 0
        self._asides = 0
        self._tasks = 0
        self._cli_running = False
        self._waking: asyncio.TimerHandle | None = None
        self._parked = False
        self._park_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._error: str | None = None
        self._problem: Problem | None = None
        self.cli_version = cli_version

    @property
    def busy(self) -> bool:
        asked = self._turns or self._preparing or self._queued or self._asides
        running = self._cli_running and not self._parked
        return bool(asked or self._tasks or running or self._waking or self._park_timer)

    @property
    def parked(self) -> bool:
        """Busy only with waiting for results of the client's tools, which come through a suspension just as well."""
        asked = self._turns or self._preparing or self._queued or self._asides
        return self._parked and not (asked or self._tasks or self._waking)

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
            "parked": self.parked,
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
            "problem": self._problem,
        }

    async def watch(self, heartbeat: float = HEARTBEAT_SECONDS) -> AsyncIterator[dict[str, Any]]:
        """The view now, after every change, and after `heartbeat` seconds without one; ends with the worker's drain.

        Who reads it and hears nothing for longer than that knows that the worker is gone.
        """
        while True:
            changed = self._changed
            view = self.view()
            yield view
            # Of the line that was sent: the phase may have changed since.
            if view["phase"] == "drained":
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(heartbeat):
                    await changed.wait()

    def publish(self) -> None:
        """Tell those who watch that something changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- what happens --------------------------------------------------------------------------------------------

    def set_phase(self, phase: Phase) -> None:
        self._phase = phase
        self.publish()

    @property
    def unbound(self) -> bool:
        """No conversation has been set up here yet."""
        return self._phase == "warm"

    def bind(self) -> None:
        """The CLI is set up for a conversation."""
        if self.unbound:
            self.set_phase("bound")

    def judge_credential(self, accepted: bool | None) -> None:
        """Note what a turn showed about the credential for the model's API; None: nothing."""
        if accepted is not None:
            self._problem = None if accepted else "key_refused"
            self.publish()

    def fail(self, error: str) -> None:
        """This worker is of no use any more."""
        self._error = error
        self.set_phase("failed")

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count a turn whose CLI is being set up, which can take seconds."""
        self._preparing += 1
        self.publish()
        try:
            yield
        finally:
            self._preparing -= 1
            self.publish()

    def begin_turn(self) -> None:
        self._turns += 1
        self._active()

    def end_turn(self) -> None:
        self._turns -= 1
        self._active()

    def _active(self) -> None:
        self._state.last_active = time.time()
        self.publish()

    def park(self, seconds: float) -> None:
        """The CLI waits for results of the client's tools: that is work for so long, and then it is idleness."""
        self.unpark()
        self._parked = True
        self._park_timer = asyncio.get_running_loop().call_later(seconds, self._park_is_over)
        self.publish()

    def _park_is_over(self) -> None:
        self._park_timer = None
        self.publish()

    def unpark(self) -> None:
        """It does not wait any more."""
        self._parked = False
        if self._park_timer is not None:
            self._park_timer.cancel()
            self._park_timer = None
        self.publish()

    @asynccontextmanager
    async def waiting(self, limit: int) -> AsyncIterator[None]:
        """Count a request that waits for its turn. Raises ApiError (429) when `limit` already wait."""
        if self._queued >= limit and (self._turns or self._preparing or self._queued):
            raise ApiError(429, f"{limit} requests already wait for this conversation.", code="conversation_busy",
                           retry=True, retry_after=2)  # fmt: skip
        self._queued += 1
        self.publish()
        try:
            yield
        finally:
            self._queued -= 1
            self.publish()

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
        self.publish()

    async def until_cli_idle(self) -> None:
        """Wait while the CLI works on something that no request asked for, unless the worker is ending."""
        while self._cli_running and not self.ending:
            await self._changed.wait()
