"""One Claude Code process: spawn, feed, read, interrupt, close. It knows frames, not conversations.

Built on asyncio's subprocess protocol, not on its stream readers: a chunk of output is split and handed on in the same
callback that received it, with no task switch in between.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec

from claude_worker import frames
from claude_worker.frames import Frame

log = logging.getLogger(__name__)

_STDERR_TAIL = 4096
_EXIT_DRAIN_SECONDS = 0.25
_PR_SET_PDEATHSIG = 1


class ProcessGone(Exception):
    """The CLI ended; the message holds the end of its standard error."""


class ControlFailed(Exception):
    """The CLI answered a control request with an error, or not in time."""


def _die_with_parent() -> None:
    """Runs in the child before exec. SIGTERM, so that the CLI still ends its own children when the worker is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class ClaudeProcess(asyncio.SubprocessProtocol):
    """A running CLI.

    `on_frames` gets the decoded frames of one read at once. `on_request` gets what the CLI asks, in order with the
    frames, and returns the answer (None: it comes later); without it, all is refused. `on_exit` is called once, at the
    end.
    """

    managed: ClassVar[set[int]] = set()
    """Ids of the processes whose end is waited for here; see `orphans`."""
    spawning: ClassVar[int] = 0
    """How many are being started, their ids not yet known."""

    def __init__(
        self,
        on_frames: Callable[[list[Frame]], None],
        on_exit: Callable[[ClaudeProcess], None] | None = None,
        on_request: Callable[[Frame], bytes | None] | None = None,
    ) -> None:
        self._on_frames = on_frames
        self._on_exit = on_exit
        self._on_request = on_request or frames.control_answer
        self._partial: list[bytes] = []
        self._stderr = b""
        self._pending: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdout_closed = asyncio.Event()
        self._ended = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        self.exit_code: int | None = None
        self.pid = 0
        self.credential_read = time.time()
        """Unix time of the newest credential file that the CLI has read; see `credential`."""

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        on_frames: Callable[[list[Frame]], None],
        on_exit: Callable[[ClaudeProcess], None] | None = None,
        on_request: Callable[[Frame], bytes | None] | None = None,
    ) -> ClaudeProcess:
        """Start `command`. Raises OSError when it cannot be executed."""
        loop = asyncio.get_running_loop()
        ClaudeProcess.spawning += 1
        try:
            _, protocol = await loop.subprocess_exec(
                lambda: cls(on_frames, on_exit, on_request), *command, cwd=cwd, env=env, preexec_fn=_die_with_parent
            )
        finally:
            ClaudeProcess.spawning -= 1
        return protocol

    # -- asyncio.SubprocessProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()
        self.managed.add(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr = (self._stderr + data)[-_STDERR_TAIL:]
            return
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._partial.append(data)
            return
        whole = b"".join([*self._partial, head])
        self._partial = [tail] if tail else []
        received: list[Frame] = []
        for line in whole.split(b"\n"):
            frame = self._decode(line) if line else None
            if frame is None:
                continue
            if frame.type != "control_request":
                received.append(frame)
                continue
            # A tool's call comes after the frames that speak of it, for those who get both.
            if received:
                self._on_frames(received)
                received = []
            if answer := self._on_request(frame):
                self.write(answer)
        if received:
            self._on_frames(received)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._stdout_closed.set()

    def process_exited(self) -> None:
        self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        # A grandchild may hold the pipe open, so the wait for the last output is bounded.
        try:
            async with asyncio.timeout(_EXIT_DRAIN_SECONDS):
                await self._stdout_closed.wait()
        except TimeoutError:
            log.debug("standard output of %s is still held by a child", self.pid)
        transport = self._subprocess
        self.exit_code = transport.get_returncode()
        transport.close()
        self.managed.discard(self.pid)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ProcessGone(self.describe_exit()))
        self._ended.set()
        if self._on_exit:
            self._on_exit(self)

    # -- reading -------------------------------------------------------------------------------------------------

    def _decode(self, line: bytes) -> Frame | None:
        try:
            frame = frames.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("a line of the CLI was not understood (%d bytes): %s", len(line), error)
            return None
        if frame.type == "control_response" and frame.response:
            self._resolve(frame.response)
            return None
        return frame

    def _resolve(self, response: frames.ControlResponse) -> None:
        future = self._pending.get(response.request_id)
        if future is None or future.done():
            return
        if response.subtype == "success":
            future.set_result(response.response or {})
        else:
            future.set_exception(ControlFailed(response.error or "the CLI refused a control request"))

    # -- writing -------------------------------------------------------------------------------------------------

    @property
    def _subprocess(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None, "connection_made comes first"
        return self._transport

    @property
    def alive(self) -> bool:
        return self._finishing is None

    def describe_exit(self) -> str:
        """Why it ended, for an error message: exit status and the last line of standard error."""
        code = self.exit_code
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        last = self._stderr.decode(errors="replace").strip().splitlines()
        return f"Claude Code ended with {how}" + (f": {last[-1][:300]}" if last else "")

    def write(self, line: bytes) -> None:
        """Put one line on the CLI's standard input; lost when it has ended (its exit is reported by itself)."""
        stdin = cast("asyncio.WriteTransport | None", self._subprocess.get_pipe_transport(0))
        if stdin is not None and not stdin.is_closing():
            stdin.write(line)

    async def control(self, wait_seconds: float, **request: Any) -> dict[str, Any]:
        """Send a control request and return the CLI's answer. Raises ControlFailed, ProcessGone."""
        if not self.alive:
            await self._ended.wait()
            raise ProcessGone(self.describe_exit())
        request_id = uuid.uuid4().hex
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        self.write(frames.control_request(request_id, request))
        try:
            # Not wait_for: up to Python 3.11 it forgets a cancellation that comes together with the answer.
            async with asyncio.timeout(wait_seconds):
                return await future
        except TimeoutError:
            raise ControlFailed(f"no answer to {request['subtype']} within {wait_seconds:g} s") from None
        finally:
            del self._pending[request_id]

    def pause(self) -> None:
        """Stop reading: the CLI will block on its output, so memory stays bounded when a client reads slowly."""
        self._reader(cast("asyncio.ReadTransport | None", self._subprocess.get_pipe_transport(1)), pause=True)

    def resume(self) -> None:
        """Read on."""
        self._reader(cast("asyncio.ReadTransport | None", self._subprocess.get_pipe_transport(1)), pause=False)

    @staticmethod
    def _reader(pipe: asyncio.ReadTransport | None, *, pause: bool) -> None:
        if pipe is None or pipe.is_closing() or pipe.is_reading() is not pause:
            return
        if pause:
            pipe.pause_reading()
        else:
            pipe.resume_reading()

    # -- ending --------------------------------------------------------------------------------------------------

    async def close(self, grace: float = 5.0) -> None:
        """End it so that its transcript is whole: EOF on stdin, then SIGTERM, then SIGKILL, `grace` seconds each."""
        stdin = cast("asyncio.WriteTransport | None", self._subprocess.get_pipe_transport(0))
        if self.alive and stdin is not None and not stdin.is_closing():
            stdin.close()
        for step in (None, signal.SIGTERM, signal.SIGKILL):
            if step is not None and self.alive:
                log.warning("the CLI (pid %s) did not end; sending %s", self.pid, step.name)
                self._subprocess.send_signal(step)
            try:
                async with asyncio.timeout(grace):
                    await self._ended.wait()
                return
            except TimeoutError:
                continue

    def kill(self) -> None:
        """SIGKILL, at once; the exit is reported as usual."""
        if self.alive:
            self._subprocess.kill()

    async def wait(self) -> None:
        """Until it has ended and its last output was handed on."""
        await self._ended.wait()
