"""One worker process: spawn, hand over the token, follow its status, drain, stop, reap.

A worker never outlives the server: its standard input is the lifeline (see `claude_worker`), and it leads a session of
its own, so that Ctrl-C in the terminal reaches the server alone and a kill reaches the whole group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import aiohttp
import msgspec

from claude_router.local.environment import WORKSPACE_GIT
from claude_router.sessions import Usage

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""From spawn to the line that says it listens; a booting Python on a loaded machine takes seconds, not a minute."""
_CLONE_SECONDS = 600.0
"""The worker's own limit for a workspace that is cloned first."""

_DRAIN_SECONDS = 30.0  # the worker's own closing of the CLI takes up to 15 s
_CHECK_SECONDS = 2.0
_STOP_SECONDS = 20.0
_LAST_WORDS_SECONDS = 0.25
_FOLLOW_AGAIN_SECONDS = 0.2
_TAIL_LINES = 20
_LINE_MAX = 65_536


class WorkerFailed(Exception):
    """The process did not come to serve; the message holds the end of its standard error."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """A line of the worker's `GET /status`; `last_active` in Unix seconds."""

    phase: Literal["warm", "bound", "draining", "drained", "failed"]
    busy: bool = False
    last_active: float = 0.0
    turns: int = 0
    usage: Usage = Usage()
    claude_session_id: str | None = None
    cli_version: str = ""
    error: str | None = None
    parked: bool = False


_decode = msgspec.json.Decoder(WorkerStatus).decode


class _Ready(msgspec.Struct):
    port: int


class WorkerProcess(asyncio.SubprocessProtocol):
    """A worker. `changed` is called (on the loop) whenever its status or its life may have changed."""

    def __init__(self, name: str, http: aiohttp.ClientSession, changed: Callable[[], None]) -> None:
        self.name = name
        self.token = secrets.token_hex(32)
        self.endpoint = ""
        self.status: WorkerStatus | None = None
        self.exit_code: int | None = None
        self._doomed = False
        self._http = http
        self._changed = changed
        self._transport: asyncio.SubprocessTransport | None = None
        self._ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._stderr_closed = asyncio.Event()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._partial = {1: b"", 2: b""}
        self._follower: asyncio.Task[None] | None = None
        self._finisher: asyncio.Task[None] | None = None  # kept: the loop itself holds tasks only weakly

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run `command` and wait until it listens. Raises WorkerFailed; the process may still have to be stopped."""
        loop = asyncio.get_running_loop()
        try:
            await loop.subprocess_exec(lambda: self, *command, env=dict(environment), start_new_session=True)
        except OSError as error:
            self._ended.set()
            raise WorkerFailed(f"a worker could not be started: {error}") from error
        seconds = START_SECONDS + (_CLONE_SECONDS if environment.get(WORKSPACE_GIT) else 0.0)
        try:
            async with asyncio.timeout(seconds):
                port = await asyncio.shield(self._ready)
        except TimeoutError:
            raise WorkerFailed(f"{self.name} was not ready within {seconds:g} s{self.last_words()}") from None
        self.endpoint = f"http://127.0.0.1:{port}"
        self._follower = loop.create_task(self._follow())

    # -- asyncio.SubprocessProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        if self._doomed:
            self.kill()
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        stdin.write(self.token.encode() + b"\n")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._partial[fd] + data).split(b"\n")
        if len(rest) > _LINE_MAX:
            lines, rest = [*lines, rest], b""
        self._partial[fd] = rest
        for line in lines:
            if fd == 2:
                self._note(line)
            elif not self._ready.done():
                self._listens(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 2:
            if self._partial[2]:
                self._note(self._partial[2])
                self._partial[2] = b""
            self._stderr_closed.set()

    def process_exited(self) -> None:
        self.exit_code = self._process.get_returncode()
        # What the worker left behind in its group (its CLI, were the worker killed) goes with it.
        self._signal_group(signal.SIGKILL)
        self._finisher = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        # A grandchild may hold the pipe open, so the wait for the last words is bounded.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._stderr_closed.wait()
        self._process.close()
        if self._follower is not None:
            # Its connection broke with the process; cancelled while it connects, it would leave a socket open.
            await asyncio.wait([self._follower], timeout=_LAST_WORDS_SECONDS)
            self._follower.cancel()
        if not self._ready.done():
            self._ready.set_exception(WorkerFailed(f"{self.name} ended with {self.describe_exit()}{self.last_words()}"))
            self._ready.exception()  # retrieved, should nobody wait any more
        self._ended.set()
        self._changed()

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def _process(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None, "connection_made comes first"
        return self._transport

    @property
    def pid(self) -> int:
        """Process id; 0 when it could not be spawned."""
        return self._transport.get_pid() if self._transport else 0

    @property
    def alive(self) -> bool:
        """Whether the process runs. False the moment its death is known, a little before `wait` returns."""
        return self._transport is not None and self.exit_code is None

    @property
    def ended(self) -> bool:
        """Whether it is gone, reaped, and its last words are read."""
        return self._ended.is_set()

    def describe_exit(self) -> str:
        """`status 1` or `signal 9`."""
        code = self.exit_code
        return f"signal {-code}" if code is not None and code < 0 else f"status {code}"

    def last_words(self) -> str:
        """`: ` and the end of its standard error, or nothing."""
        words = "\n".join(self._tail).strip()
        return f": {words[-2000:]}" if words else ""

    def _listens(self, line: bytes) -> None:
        try:
            self._ready.set_result(msgspec.json.decode(line, type=_Ready).port)
        except msgspec.DecodeError:
            log.warning("%s: unexpected output %r", self.name, line[:200])

    def _note(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._tail.append(text)
            log.info("worker said", extra={"fields": {"worker": self.name, "line": text}})

    async def _follow(self) -> None:
        """Keep `status` current. Every connection begins with the present state, so a lost one loses nothing."""
        patient = aiohttp.ClientTimeout(total=None, sock_connect=_CHECK_SECONDS)
        while self.alive:
            lost: Exception | None = None
            try:
                async with self._http.get(
                    f"{self.endpoint}/status?watch=true", headers=self._authorization, timeout=patient
                ) as response:
                    response.raise_for_status()
                    async for line in response.content:
                        self.status = _decode(line)
                        self._changed()
                if self.status and self.status.phase == "drained":
                    return  # its last word
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
                lost = error
            if self.alive:
                await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)
            if lost and self.alive:  # a dying worker's connection ends before its death is known
                log.warning("%s: its status could not be read: %s", self.name, lost)

    # -- asking --------------------------------------------------------------------------------------------------

    @property
    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def check(self) -> WorkerStatus | None:
        """Its status asked for anew; None when it does not answer within two seconds."""
        brief = aiohttp.ClientTimeout(total=_CHECK_SECONDS)
        try:
            async with self._http.get(
                f"{self.endpoint}/status", headers=self._authorization, timeout=brief
            ) as response:
                response.raise_for_status()
                return _decode(await response.read())
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
            return None

    async def drain(self, *, force: bool = False, grace: float = 0.0) -> bool:
        """Ask it to close the CLI cleanly. False: it is busy and goes on (never with `force`).

        `force` waits up to `grace` seconds for the running turn, then interrupts it. True also when the worker is gone
        or does not answer: there is nothing left to wait for, and `stop` is what comes next anyway.
        """
        if not self.alive or not self.endpoint:
            return True
        query = f"?force=true&grace_ms={int(grace * 1000)}" if force else ""
        limit = aiohttp.ClientTimeout(total=_DRAIN_SECONDS + grace)
        try:
            async with self._http.post(
                f"{self.endpoint}/drain{query}", headers=self._authorization, timeout=limit
            ) as response:
                return response.status != 409
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if self.alive:
                log.warning("%s: could not be drained: %s", self.name, error or type(error).__name__)
            return True

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to its group; returns when it is reaped."""
        if self._transport is None:
            return
        if self.alive:
            # Not the transport's `terminate`: it may reap a process that has just ended, and its status is lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            log.warning("%s did not stop; killing it", self.name)
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """SIGKILL to the worker and its group, at once; also to one that is just being spawned."""
        self._doomed = True
        if self.alive:
            self._signal_group(signal.SIGKILL)

    async def wait(self) -> None:
        """Until it is reaped."""
        await self._ended.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        # macOS answers EPERM for a group whose processes are all dead.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
