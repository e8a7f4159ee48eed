"""The worker's heart: one conversation, its CLI process, and the order of its turns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from claude_worker import aside, placement, recovery
from claude_worker.history import Aside, Asked, Hints, Repeat, Run, classify
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest
from claude_worker.running import Runner, shutting_down
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.turn import Turn

log = logging.getLogger(__name__)


class Conversation:
    """Runs turns one at a time, in order of arrival; side tasks beside them.

    A turn belongs to the conversation, not to the connection that asked for it: a client that leaves may come back for
    `DETACH_MS`, then its turn is interrupted.
    """

    def __init__(self, settings: WorkerSettings, ledger: Ledger, status: Status) -> None:
        self._settings = settings
        self._ledger = ledger
        self._status = status
        self._slot = asyncio.Lock()
        # Kept here, since the loop itself holds tasks only weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner = Runner(settings, ledger, status)
        self.engine = self._runner.engine

    async def begin(self) -> None:
        """Judge what a worker before this one left, and boot the CLI. Raises OSError."""
        await asyncio.to_thread(recovery.judge, self._ledger, self._settings)
        await self.engine.boot()

    # -- turns ---------------------------------------------------------------------------------------------------

    def submit(self, request: ChatRequest, turn: Turn, hints: Hints, keys: list[str]) -> None:
        """Answer `request` into `turn`, or have its readers follow the turn that it repeats; errors close the turn.

        Raises ApiError for a request that cannot be taken at all.
        """
        if self._settings.resolve(request.model) is None:
            names = ", ".join(self._settings.model_ids)
            raise ApiError(404, f"The model {request.model!r} does not exist; there are: {names}.",
                           code="model_not_found", param="model")  # fmt: skip
        self._refuse_when_ending()
        task = asyncio.create_task(self._answer(request, turn, hints, keys))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        turn.unwatched = lambda: self._unwatched(turn, task)

    async def _answer(self, request: ChatRequest, turn: Turn, hints: Hints, keys: list[str]) -> None:
        try:
            await self._run(request, turn, hints, keys)
        except ApiError as error:
            turn.close(error)
        except asyncio.CancelledError:
            turn.close(ApiError(499, "The client left.", code="client_left"))
            raise
        except Exception:
            log.exception("a turn failed")
            turn.close(ApiError(500, "The worker failed; its log says why.", code="internal_error"))

    async def _run(self, request: ChatRequest, turn: Turn, hints: Hints, keys: list[str]) -> None:
        rule = self._decide(request, hints, keys)
        if isinstance(rule, Run):
            self._give_way()
            waits = self._slot.locked()
            async with self._status.waiting(self._settings.max_queue):
                await self._slot.acquire()
            # What waited may have become something else: the turn before it may have set up the conversation.
            try:
                rule = self._decide(request, hints, keys) if waits else rule
            except BaseException:
                self._slot.release()
                raise
            if isinstance(rule, Run):
                try:
                    self._refuse_when_ending()
                    await self._runner.run(rule, request, turn, keys, lambda: self._decide(request, hints, keys))
                finally:
                    self._slot.release()
                return
            self._slot.release()
        if isinstance(rule, Repeat):
            await self._repeat(rule.turn, turn)
        else:
            await self._run_aside(rule, turn, request)

    def _decide(self, request: ChatRequest, hints: Hints, keys: list[str]) -> Run | Repeat | Aside:
        before = self._ledger.by_key(keys)
        # A turn that failed or was interrupted is what a client sends again with the same key to have it done.
        if before is not None and before.state in ("running", "done", "lost"):
            return Repeat(before)
        if self._runner.current is not None and self._ledger.last is not None:
            self._ledger.last.watched = bool(self._runner.current.readers)
        return classify(request, self._ledger.known, hints)

    def _refuse_when_ending(self) -> None:
        if self._status.ending:
            raise shutting_down()

    def _give_way(self) -> None:
        """A turn that nobody reads any more makes room for one that somebody waits for."""
        if self._runner.current is not None and not self._runner.current.readers:
            self._runner.current.abandon()

    def _unwatched(self, turn: Turn, task: asyncio.Task[None]) -> None:
        """The last client of `turn` has left."""
        if turn.closed:
            return
        if not turn.begun or self._status.ending:
            task.cancel()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.detach, lambda: None if turn.readers else turn.abandon())

    async def _run_aside(self, rule: Aside, turn: Turn, request: ChatRequest) -> None:
        turn.history = "aside"
        model = self._settings.resolve(request.model)
        with self._status.aside():
            try:
                await aside.answer(self._settings, rule, model.model if model else "", turn)
            finally:
                self._status.judge_credential(turn.credential_accepted)
        self._ledger.state.totals.cost_usd += turn.translator.cost_usd

    # -- the same turn again -------------------------------------------------------------------------------------

    async def _repeat(self, asked: Asked, turn: Turn) -> None:
        """Have the readers of `turn` follow the one that was asked for before. Raises ApiError when it cannot be."""
        before = self._runner.current
        if before is None or before.uuid != asked.uuid:
            before = self._runner.replays.get(asked.uuid)
        if before is None and asked.answer:
            answer = await asyncio.to_thread(recovery.answer_of, self._ledger, self._settings, asked)
            before = recovery.told_again(asked, answer, turn.head) if answer else None
        if before is None:
            why = (
                "its answer is not kept any more"
                if asked.state == "done"
                else "its worker ended before it did; what it did is not known"
            )
            raise ApiError(409, f"That turn was run, and {why}. Send it as a new request to run it again.",
                           code="turn_lost", retry=False)  # fmt: skip
        before.history = "replayed" if before.closed else "attached"
        for reader in list(turn.readers):
            reader.follow(before)
        turn.close()

    def delivered(self, turn: Turn) -> None:
        """A client has read the whole answer."""
        turn.delivered = True
        if asked := self._ledger.turns.get(turn.uuid):
            asked.delivered = True

    # -- the volume ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """No turn runs meanwhile, and all of the memory is on the volume."""
        async with self._slot:
            await placement.flushed(self._ledger, self._settings.config_dir)
            yield

    async def import_volume(self, read: Callable[[], Awaitable[None]], at: str = "") -> None:
        """Replace an unbound worker's empty volume by what `read` writes there; `at`: the message to go on from."""
        if not self._status.unbound:
            raise ApiError(409, "This conversation has begun already.", code="conversation_exists")
        async with self._slot:
            await self.engine.close()
            try:
                await read()
                await asyncio.to_thread(self._reload, at)
                if self._ledger.state.claude_session_id:
                    self._status.bind()
            finally:
                await self.engine.reopen()

    def _reload(self, at: str) -> None:
        self._ledger.reload()
        recovery.judge(self._ledger, self._settings)
        if at:
            recovery.go_to(self._ledger, self._settings.config_dir, at)

    # -- ending --------------------------------------------------------------------------------------------------

    async def drain(self, *, force: bool, grace: float) -> None:
        """Close the CLI so that its memory is whole on the volume; afterwards every request is refused.

        Raises ApiError (409) while busy, unless `force`: then the running turn has `grace` seconds to end. A turn that
        waits for its client's tools goes on from the volume.
        """
        if self._status.busy and not self._status.parked and not force:
            raise ApiError(409, "The worker is busy.", code="worker_busy")
        self._status.set_phase("draining")
        if force:
            await self._end_turn(grace)
        self._runner.closing = True
        async with self._slot:
            await self.engine.close()
        self._status.set_phase("drained")

    async def _end_turn(self, grace: float) -> None:
        """Give what holds the slot `grace` seconds; then interrupt it."""
        try:
            async with asyncio.timeout(grace), self._slot:
                return
        except TimeoutError:
            if self._runner.current is None:
                # It waits for a CLI that is not ready; without one it gives up.
                self._runner.closing = True
                await self.engine.close()
                return
            ended = ApiError(503, "The server is shutting down; the turn was interrupted.",
                             code="worker_stopped", retry=False)  # fmt: skip
            self._runner.current.close(ended)
