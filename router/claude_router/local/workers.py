"""The workers' lives: started, bound to a conversation, drained, ended, reaped.

Each step is a task that rings at its end. Nothing here decides; see `reconcile`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from claude_operator.decide import WorkerState
from claude_router.local import strays
from claude_router.local.environment import WORKSPACE_GIT
from claude_router.local.live import HOLD_SECONDS, Live, Wanted
from claude_router.local.process import WorkerFailed, WorkerProcess
from claude_router.local.store import Store
from claude_router.local.volumes import Volume
from claude_router.sessions import SessionFailed

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3
"""So many failed starts, and the waiting requests are told; so many of new workers, and the pool counts as broken."""

_BACK_OFF_SECONDS = 0.5
_BACK_OFF_MAX_SECONDS = 30.0


def back_off(failures: int) -> float:
    """Seconds before the next attempt after so many failed ones: 0.5, 1, 2 … 30."""
    return min(_BACK_OFF_MAX_SECONDS, _BACK_OFF_SECONDS * 2.0 ** (min(failures, 10) - 1))


@dataclass(frozen=True, slots=True)
class Launch:
    """How a worker is started: the command, and the environment that all of them share."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Workers:
    """All live workers, all conversations that need attention, and what is known about starting workers at all."""

    def __init__(self, store: Store, launch: Launch, clock: Callable[[], float]) -> None:
        self.store = store
        self.live: dict[str, Live] = {}
        self.wanted: dict[str, Wanted] = {}
        self.failures = 0
        self.warm_not_before = 0.0
        self.error = ""
        self.cli_version = ""
        self.bell = asyncio.Event()
        self.clock = clock
        self._launch = launch
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        # A worker's answers are small and come from this machine: no proxy, no limit of connections.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; an unforeseen failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.bell.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of the pool failed", exc_info=error)

    async def close(self) -> None:
        """After the last worker has gone: let its tasks end, and the connections."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._http.close()

    # -- starting ------------------------------------------------------------------------------------------------

    def git_of(self, wanted: Wanted | None) -> str:
        """What a worker's workspace is cloned from: a spare's, or a conversation's; empty: nothing, or it is there."""
        if wanted is not None and wanted.name in self.store.records:
            return ""
        if wanted is not None and (begins := wanted.key.begins) is not None:
            return str(begins.git or "")
        return self._launch.environment.get(WORKSPACE_GIT, "")

    def fresh(self, wanted: Wanted) -> bool:
        """Whether the conversation has no volume yet, and a spare's is like one that it would get."""
        return wanted.name not in self.store.records and self.git_of(wanted) == self.git_of(None)

    def start(self, volume: Volume, wanted: Wanted | None) -> Live:
        """Start a worker on `volume`, for a conversation or as a spare."""
        process = WorkerProcess(f"worker-{next(self._numbers)}", self._http, self.bell.set)
        now = self.clock()
        live = Live(process, volume, wanted.name if wanted else None, started=now, last_active=now)
        self.live[live.name] = live
        if wanted:
            wanted.worker = live
        self.task(self._start(live, self.git_of(wanted)))
        return live

    async def _start(self, live: Live, git: str) -> None:
        environment = {
            **self._launch.environment,
            WORKSPACE_GIT: git,
            "VOLUME_DIR": str(live.volume.path),
            "WORKSPACE_DIR": str(live.volume.workspace),
            strays.MARK: _mark(live),
        }
        try:
            await live.process.start(self._launch.command, environment)
        except WorkerFailed as error:
            if not live.leaving:
                self.failed(live, str(error))
            live.state = WorkerState.TERMINATING
        if live.leaving:
            await live.process.stop()
            return
        live.state = WorkerState.READY
        live.started = live.last_active = self.clock()

    def bind(self, live: Live) -> None:
        """The worker is well and has a conversation: lend it, as soon as the conversation's record is on disk."""
        assert live.session is not None
        wanted = self.wanted[live.session]
        if live.session in self.store.records:
            live.bound = True
        elif wanted.waits():
            live.binding = self.task(self._claim(live, wanted))
        else:
            self._unbind(live, wanted)  # whoever asked for it has left before anything began

    async def _claim(self, live: Live, wanted: Wanted) -> None:
        try:
            await self.store.claim(wanted.key, live.volume)
            live.bound = True
        except (OSError, ValueError) as error:
            log.error("the record of %s could not be written: %s", wanted.name, error)
            wanted.answer(SessionFailed(f"its record could not be written: {error}"))
            self._unbind(live, wanted)

    def _unbind(self, live: Live, wanted: Wanted) -> None:
        wanted.worker = live.session = live.binding = None
        self.bell.set()

    # -- how it went ---------------------------------------------------------------------------------------------

    def failed(self, live: Live, reason: str) -> None:
        """A worker could not be started. Requests that wait for it are told after the third time in a row."""
        log.error("worker failed", extra={"fields": {"worker": live.name, "session": live.session, "reason": reason}})
        if live.session:
            self.session_failed(self.wanted[live.session], reason)
        # A conversation's own volume, or its repository, may be what is broken; a new one says something about all.
        record = self.store.records.get(live.session or "")
        own = self.git_of(self.wanted.get(live.session or "")) != self.git_of(None)
        if not own and (record is None or record.turns == 0):
            self.pool_failed(reason)

    def session_failed(self, wanted: Wanted, reason: str) -> None:
        wanted.failures += 1
        wanted.error = reason
        wanted.not_before = self.clock() + back_off(wanted.failures)
        self.bell.set()
        if wanted.failures >= FAILURES_IN_A_ROW:
            wanted.answer(SessionFailed(self.explain(wanted)))

    def explain(self, wanted: Wanted) -> str:
        """Why the conversation's worker cannot be started, and what happens next."""
        wait = max(0.0, wanted.not_before - self.clock())
        return (
            f"its worker could not be started {wanted.failures} times in a row; the next attempt is possible in"
            f" {wait:.0f} s. The last one: {wanted.error}"
        )

    def pool_failed(self, reason: str) -> None:
        self.failures += 1
        self.warm_not_before = self.clock() + back_off(self.failures)
        self.bell.set()
        if self.failures >= FAILURES_IN_A_ROW and not any(w.proven for w in self.live.values()):
            self.error = f"no worker can be started: {reason}"

    def succeeded(self, live: Live) -> None:
        """A worker has shown that it works."""
        live.proven = True
        if self.failures:
            self.failures, self.warm_not_before, self.error = 0, 0.0, ""
        if live.session and (wanted := self.wanted.get(live.session)):
            wanted.failures, wanted.not_before, wanted.error = 0, 0.0, ""

    # -- ending --------------------------------------------------------------------------------------------------

    def drain(self, live: Live, reason: str) -> None:
        """Ask it to end if it is idle; one that still starts has nothing to lose and is stopped."""
        log.info("draining", extra={"fields": {"worker": live.name, "session": live.session, "reason": reason}})
        if live.state is WorkerState.STARTING:
            self.stop(live)
        else:
            live.state = WorkerState.DRAINING
            self.task(self._drain(live))

    async def _drain(self, live: Live) -> None:
        if await live.process.drain():
            live.state = WorkerState.TERMINATING
            # Its memory is on the volume and its CLI gone: nothing is left that an orderly end would save, only time.
            live.process.kill()
            await live.process.wait()
        elif live.state is WorkerState.DRAINING:
            # Busy after all: until its own status says so, the pool takes its word for it.
            live.state = WorkerState.READY
            live.held_until = self.clock() + HOLD_SECONDS

    def stop(self, live: Live) -> None:
        """End a worker that is of no use any more."""
        live.state = WorkerState.TERMINATING
        self.task(live.process.stop())

    async def end(self, live: Live, grace: float) -> None:
        """End it whatever it does; a running turn has `grace` seconds. Returns when it is gone."""
        state, live.state = live.state, WorkerState.TERMINATING
        if state in (WorkerState.READY, WorkerState.DRAINING):
            await live.process.drain(force=True, grace=grace)
        if state is not WorkerState.TERMINATING:
            await live.process.stop()
        self.bell.set()
        await live.gone.wait()

    async def verify(self, live: Live) -> None:
        """It refused a turn, or did not answer: lend it again if it is well, else end it."""
        status = await live.process.check()
        if live.leaving or not live.process.alive:
            return
        if status is not None and status.phase in ("warm", "bound"):
            live.suspect = False
        elif status is None:
            log.error("worker does not answer", extra={"fields": {"worker": live.name, "session": live.session}})
            live.process.kill()
        # Else its status line says the same to the pool.

    def reap(self, live: Live) -> None:
        """It has ended, asked or not: take it off the books once nothing of it is left."""
        live.reaping = True
        if not live.leaving:
            how = live.process.describe_exit()
            if live.proven:
                log.error("worker ended", extra={"fields": {"worker": live.name, "session": live.session, "exit": how}})
            else:
                self.failed(live, f"{live.name} ended with {how}{live.process.last_words()}")
        live.state = WorkerState.TERMINATING
        self.task(self._reap(live))

    async def _reap(self, live: Live) -> None:
        try:
            if live.binding is not None:
                await asyncio.wait([live.binding])
            if killed := await asyncio.to_thread(strays.kill, _mark(live)):
                log.warning("%d processes that %s left behind were killed", killed, live.name)
            if live.session in self.store.records:
                await self.store.flush()
            else:
                await self.store.discard(live.volume)
        finally:
            del self.live[live.name]
            if live.session and (wanted := self.wanted.get(live.session)):
                wanted.worker = None
                wanted.suspend_requested = False
            live.gone.set()


def _mark(live: Live) -> str:
    return f"{live.volume.path}#{live.name}"
