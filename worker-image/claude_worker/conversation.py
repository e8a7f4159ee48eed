"""The worker's heart: one conversation, its CLI process, and the order of its turns."""

from __future__ import annotations

import asyncio
import logging
import time

from claude_worker import aside, frames, orphans
from claude_worker.content import prompt_blocks
from claude_worker.engine import Engine
from claude_worker.history import Aside, Continue, classify, extend
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import NOT_STARTED, ApiError
from claude_worker.openai.request import ChatRequest, Message
from claude_worker.process import ClaudeProcess, ControlFailed, ProcessGone
from claude_worker.settings import BASE_MODEL, WorkerSettings
from claude_worker.status import Status
from claude_worker.turn import Turn

log = logging.getLogger(__name__)

_INTERRUPT_SECONDS = 5.0


def refused(message: str, code: str) -> ApiError:
    """A refusal before the turn began: the router may send the request again elsewhere."""
    return ApiError(503, message, code=code, headers={NOT_STARTED: "not-started"}, retry=True, retry_after=1)


def shutting_down() -> ApiError:
    """The refusal of a worker that drains."""
    return refused("This worker is shutting down.", "worker_draining")


class Conversation:
    """Runs turns one at a time, in order of arrival; side tasks beside them."""

    def __init__(self, settings: WorkerSettings, ledger: Ledger, status: Status) -> None:
        self._settings = settings
        self._ledger = ledger
        self._status = status
        self._slot = asyncio.Lock()
        self._closing = False
        """No turn may begin any more. A drain that is forced lets what was taken before it still begin, and end."""
        # Kept here, since the loop itself holds tasks only weakly.
        self._settling: asyncio.Task[None] | None = None
        self.engine = Engine(settings, ledger, status)

    # -- turns ---------------------------------------------------------------------------------------------------

    async def run(self, request: ChatRequest, turn: Turn, *, client_session: bool) -> None:
        """Answer `request` into the turn's outbox; returns when the CLI is through with it.

        Cancelling it (the client left) interrupts the turn. Raises ApiError; refused requests never began.
        """
        model = self._settings.model_for(request.model)
        if model is None:
            names = ", ".join([BASE_MODEL, *self._settings.models])
            raise ApiError(404, f"The model {request.model!r} does not exist; there are: {names}.",
                           code="model_not_found", param="model")  # fmt: skip
        self._refuse_when_ending()
        rule = classify(request, self._ledger.known, client_session=client_session)
        if isinstance(rule, Continue):
            async with self._status.waiting(self._settings.max_queue):
                await self._slot.acquire()
            # What waited may have become something else: the turn before it may have set up the conversation.
            rule = classify(request, self._ledger.known, client_session=client_session)
            if isinstance(rule, Continue):
                await self._run_in_slot(rule, request, turn, model)
                return
            self._slot.release()
        await self._run_aside(rule, turn, model)

    def _refuse_when_ending(self) -> None:
        if self._status.ending:
            raise shutting_down()

    async def _run_aside(self, rule: Aside, turn: Turn, model: str) -> None:
        with self._status.aside():
            try:
                await aside.answer(self._settings, rule, model, turn)
            finally:
                self._status.judge_credential(turn.credential_accepted)
        self._ledger.state.totals.cost_usd += turn.translator.cost_usd

    async def _run_in_slot(self, rule: Continue, request: ChatRequest, turn: Turn, model: str) -> None:
        """Holds the slot until the CLI is through, even when this task is cancelled before that."""
        begun = False
        try:
            self._refuse_when_ending()
            blocks = prompt_blocks(rule.new, rule.context)
            with self._status.preparing():
                process = await self._prepare(request, model)
            if self._closing:
                raise shutting_down()
            turn.translator.cost_before = self._ledger.state.cli_cost_usd
            self.engine.turn = turn
            if not process.alive:
                raise refused(f"{process.describe_exit()}.", "worker_starting_failed")
            self._status.begin_turn()
            begun = True
            process.write(frames.user_message(blocks, turn.uuid))
            await self._until_over(turn)
        finally:
            if begun:
                self._settling = asyncio.create_task(self._settle(rule, turn))
                self._settling.add_done_callback(lambda _: self._slot.release())
                await asyncio.shield(self._settling)
            else:
                self.engine.turn = None
                self._slot.release()

    async def _prepare(self, request: ChatRequest, model: str) -> ClaudeProcess:
        """A CLI that is bound to this conversation, idle, and set to the right model."""
        try:
            process = await self.engine.bound(request)
            await self.engine.use_model(process, model)
            await self._status.until_cli_idle()
        except (ControlFailed, ProcessGone, OSError) as error:
            log.error("the CLI could not take the turn: %s", error)
            raise refused(f"Claude Code could not be started: {error}", "worker_starting_failed") from error
        return process

    async def _until_over(self, turn: Turn) -> None:
        """Until the CLI is through, the client has been told all, or the turn took too long."""
        try:
            # Not wait_for: up to Python 3.11 it forgets a cancellation that comes together with the end.
            async with asyncio.timeout(self._settings.turn_timeout):
                await turn.outbox.when_closed()
        except TimeoutError:
            seconds = f"{self._settings.turn_timeout:g}"
            turn.outbox.close(
                ApiError(504, f"The turn took longer than {seconds} s and was interrupted.", code="turn_timeout",
                         retry=False)
            )  # fmt: skip

    async def _settle(self, rule: Continue, turn: Turn) -> None:
        """Interrupt the CLI when it still works on a turn nobody waits for; then write down what its memory holds."""
        process = self.engine.process
        if not turn.over.is_set() and process is not None:
            process.resume()
            await self._interrupt(process, turn)
        self.engine.turn = None
        turn.end(None)
        self._status.judge_credential(turn.credential_accepted)
        try:
            await self._write_down(rule, turn)
        finally:
            # A full volume must not leave a worker that looks busy for ever.
            self._status.end_turn()
        orphans.reap(ClaudeProcess.managed, spawning=ClaudeProcess.spawning)

    async def _interrupt(self, process: ClaudeProcess, turn: Turn) -> None:
        try:
            async with asyncio.timeout(_INTERRUPT_SECONDS):
                await process.control(_INTERRUPT_SECONDS, subtype="interrupt", cancel_queued=True)
                await turn.over.wait()
        except (TimeoutError, ControlFailed, ProcessGone):
            log.error("the CLI (pid %s) did not stop at an interrupt; ending it", process.pid)
            await process.close(_INTERRUPT_SECONDS)

    async def _write_down(self, rule: Continue, turn: Turn) -> None:
        ledger, translator = self._ledger, turn.translator
        state = ledger.state
        lines = b""
        if turn.started:
            asked = extend(rule.base, rule.new)
            prefixes = [asked]
            if translator.text:
                prefixes.append(extend(asked, [Message("assistant", translator.text)]))
            lines = ledger.record(prefixes, translator.last_uuid)
            state.turns += 1
        usage = translator.usage
        state.totals.input_tokens += usage.prompt
        state.totals.output_tokens += usage.completion
        state.totals.cached_tokens += usage.cached
        state.totals.cost_usd += translator.cost_usd
        state.cli_cost_usd = translator.cost_total or state.cli_cost_usd
        state.last_active = time.time()
        await asyncio.to_thread(ledger.write, lines, ledger.encoded_state())

    # -- ending --------------------------------------------------------------------------------------------------

    async def drain(self, *, force: bool, grace: float) -> None:
        """Close the CLI so that its memory is whole on the volume; afterwards every request is refused.

        Raises ApiError (409) while busy, unless `force`: then the running turn has `grace` seconds to end.
        """
        if self._status.busy and not force:
            raise ApiError(409, "The worker is busy.", code="worker_busy")
        self._status.set_phase("draining")
        if force:
            await self._end_turn(grace)
        self._closing = True
        async with self._slot:
            await self.engine.close()
        self._status.set_phase("drained")

    async def _end_turn(self, grace: float) -> None:
        """Give what holds the slot `grace` seconds; then interrupt it."""
        try:
            async with asyncio.timeout(grace), self._slot:
                return
        except TimeoutError:
            if self.engine.turn is None:
                # It waits for a CLI that is not ready; without one it gives up.
                self._closing = True
                await self.engine.close()
                return
            ended = ApiError(503, "The server is shutting down; the turn was interrupted.",
                             code="worker_stopped", retry=False)  # fmt: skip
            self.engine.turn.outbox.close(ended)
