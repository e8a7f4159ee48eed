"""Running one turn on the CLI: place it, prompt it, wait, and write down what its memory holds afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from claude_worker import costs, orphans, plan, record
from claude_worker.engine import Engine
from claude_worker.history import Aside, Asked, Repeat, Run, has_history
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import NOT_STARTED, ApiError
from claude_worker.openai.request import ChatRequest
from claude_worker.process import ClaudeProcess, ControlFailed, ProcessGone
from claude_worker.replay import Replays
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.turn import Turn

log = logging.getLogger(__name__)
T = TypeVar("T")
Decide = Callable[[], Run | Repeat | Aside]
"""What the request means now, when it has become something else."""

_PLACING_ATTEMPTS = 3


def refused(message: str, code: str) -> ApiError:
    """A refusal before the turn began: the router may send the request again elsewhere."""
    return ApiError(503, message, code=code, headers={NOT_STARTED: "not-started"}, retry=True, retry_after=1)


def shutting_down() -> ApiError:
    """The refusal of a worker that drains."""
    return refused("This worker is shutting down.", "worker_draining")


class Runner:
    """One turn at a time: whoever calls `run` holds the conversation's slot, and it is free again when `run` returns.

    `closing`: no turn may begin any more. `current` is the turn that runs.
    """

    def __init__(self, settings: WorkerSettings, ledger: Ledger, status: Status) -> None:
        self._settings = settings
        self._ledger = ledger
        self._status = status
        self.closing = False
        self.current: Turn | None = None
        self.replays = Replays(settings.replay)
        self.engine = Engine(settings, ledger, status)

    async def run(self, run: Run, request: ChatRequest, turn: Turn, keys: list[str], decide: Decide) -> None:
        """Answer into `turn`. Goes on until the CLI is through, even when cancelled before that. Raises ApiError."""
        asked: Asked | None = None
        try:
            with self._status.preparing():
                run, process, send = await _whole(self._place(run, request, decide))
            if self.closing:
                raise shutting_down()
            if not process.alive:
                raise refused(f"{process.describe_exit()}.", "worker_starting_failed")
            asked = self._begin(run, request, turn, keys)
            send(turn)
            await self._until_over(turn)
        finally:
            if asked is not None:
                await _whole(self._settle(asked, turn))
            else:
                self.engine.turn = self.current = None

    def _begin(self, run: Run, request: ChatRequest, turn: Turn, keys: list[str]) -> Asked:
        """Note that the turn begins; after this it has run."""
        state = self._ledger.state
        turn.history = plan.HEADER[run.kind]
        turn.translator.cost_before = costs.so_far(state)
        turn.translator.claude_session_id = state.claude_session_id
        turn.tip_of = lambda: record.answer_prefix(run.asked, turn.translator)
        asked = Asked(run.asked, run.base, turn.uuid, watched=True)
        if request.system_text() != state.client_system:
            turn.ignored.append("system")
        state.had_tools = state.had_tools or bool(request.tools)
        state.full = state.full or has_history(request.messages)
        # The CLI's memory holds the prompt from now on, whatever becomes of the turn.
        state.tip, state.clean = run.asked, False
        self._ledger.begin(asked, keys)
        self._status.begin_turn()
        self.engine.turn = self.current = turn
        turn.begun = True
        if not turn.readers:
            turn.left_unread()
        return asked

    async def _place(
        self, run: Run, request: ChatRequest, decide: Decide
    ) -> tuple[Run, ClaudeProcess, Callable[[Turn], None]]:
        """A CLI that is where the turn begins, idle and set to the right model, and what sends it the prompt."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return run, *await plan.place(self.engine, self._ledger, self._settings, self._status, run, request)
            except plan.NodeLost as error:
                log.error("%s; what it held is told to the CLI anew", error)
                again = decide()
                if not isinstance(again, Run) or attempt >= _PLACING_ATTEMPTS:
                    raise refused(str(error), "worker_starting_failed") from error
                run = again
            except (ControlFailed, ProcessGone, OSError) as error:
                log.error("the CLI could not take the turn: %s", error)
                raise refused(f"Claude Code could not be started: {error}", "worker_starting_failed") from error

    async def _until_over(self, turn: Turn) -> None:
        """Until the CLI is through, the client has been told all, nobody reads, or the turn took too long."""
        try:
            # Not wait_for: up to Python 3.11 it forgets a cancellation that comes together with the end.
            async with asyncio.timeout(self._settings.turn_timeout):
                await turn.when_closed()
        except TimeoutError:
            seconds = f"{self._settings.turn_timeout:g}"
            turn.close(
                ApiError(504, f"The turn took longer than {seconds} s and was interrupted.", code="turn_timeout",
                         retry=False)
            )  # fmt: skip

    async def _settle(self, asked: Asked, turn: Turn) -> None:
        """Interrupt the CLI when it still works on a turn nobody waits for; then write down what its memory holds."""
        engine, process = self.engine, self.engine.process
        if not turn.over.is_set() and process is not None:
            process.resume()
            await engine.interrupt(process, turn)
        engine.turn = self.current = None
        if turn.translator.parked and process is not None and process.alive:
            engine.parked = turn
            self._status.park(self._settings.park_timeout)
        turn.end(None)
        self.replays.keep(turn)
        self._status.judge_credential(turn.credential_accepted)
        try:
            lines = record.ended(self._ledger, asked, turn)
            costs.note(self._ledger.state, turn.translator.cost_total)
            await asyncio.to_thread(self._ledger.write, lines, self._ledger.encoded_state())
        finally:
            # A full volume must not leave a worker that looks busy for ever.
            self._status.end_turn()
        orphans.reap(ClaudeProcess.managed, spawning=ClaudeProcess.spawning)


async def _whole(steps: Coroutine[Any, Any, T]) -> T:
    """Do all the steps, even when cancelled meanwhile: a process that is half moved would be nowhere."""
    task = asyncio.create_task(steps)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
