"""The limit: the CLI itself over its pipes. Its output is searched for what ends a turn, not even decoded."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from bench.load import ANSWER_SECONDS, Timed
from bench.processes import environment
from claude_worker import cli, frames
from claude_worker.settings import WorkerSettings
from local.harness import Model

_END_SECONDS = 10.0

# Inside of texts these would have backslashes.
_TEXT, _ANSWERED, _RESULT = b'"type":"text_delta"', b'"type":"control_response"', b'"type":"result"'


class BareCli(asyncio.SubprocessProtocol):
    """One CLI process."""

    def __init__(self) -> None:
        self._partial = b""
        self._first = 0.0
        self._size = 0
        self._initialized = asyncio.Event()
        self._over = asyncio.Event()
        self.ended = asyncio.Event()

    async def turn(self, text: str, *, initialize: bool = False) -> Timed:
        """One turn; with `initialize`, that is part of it. Raises TimeoutError."""
        self._over.clear()
        self._first, self._size = 0.0, 0
        began = time.perf_counter()
        async with asyncio.timeout(ANSWER_SECONDS):
            if initialize:
                self._stdin.write(frames.control_request("1", {"subtype": "initialize"}))
                await self._initialized.wait()
            self._stdin.write(frames.user_message([{"type": "text", "text": text}], str(uuid.uuid4())))
            await self._over.wait()
        return Timed(self._first - began, time.perf_counter() - began, self._size)

    @property
    def pid(self) -> int:
        return self.transport.get_pid()

    @property
    def _stdin(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self.transport.get_pipe_transport(0))

    # -- asyncio.SubprocessProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._size += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if not self._first and _TEXT in line:
                self._first = time.perf_counter()
            if _RESULT in line:
                self._over.set()
            elif _ANSWERED in line:
                self._initialized.set()

    def process_exited(self) -> None:
        self.ended.set()


@asynccontextmanager
async def bare_cli(model: Model, folder: Path, session: str = "", *, resume: bool = False) -> AsyncIterator[BareCli]:
    """A CLI with the arguments and environment that a worker gives it; `initialize` is not sent yet.

    `session` is the Claude session that it begins or, with `resume`, goes on with.
    """
    settings = WorkerSettings(volume_dir=str(folder))
    for place in (settings.workspace, settings.config_dir):
        place.mkdir(parents=True, exist_ok=resume)
    env = cli.environment(settings, environment(model.environment()), settings.config_dir)
    command = [cli.find_cli(), *cli.session_arguments(settings, session or str(uuid.uuid4()), resume=resume)]
    transport, process = await asyncio.get_running_loop().subprocess_exec(
        BareCli, *command, cwd=settings.workspace, env=env, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        cast(asyncio.WriteTransport, transport.get_pipe_transport(0)).close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.ended.wait()
        finally:
            transport.close()  # kills it, should it still be there
