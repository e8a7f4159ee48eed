"""The scripted model as a child process, for a server that has no credentials to ask a real one."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping

import msgspec

log = logging.getLogger(__name__)

_START_SECONDS = 30.0


class DemoFailed(Exception):
    """The scripted model could not be started."""


class _Ready(msgspec.Struct):
    port: int


class DemoModel:
    """Runs `python -m claude_router.demo`, which ends when its standard input closes: with this process."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Start it; returns the variables that send the CLI there. Raises DemoFailed."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "claude_router.demo", "--watch-stdin",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=dict(environment),
                start_new_session=True,  # Ctrl-C in the terminal is for the server: running turns still need the model
            )  # fmt: skip
            assert self._process.stdout is not None
            async with asyncio.timeout(_START_SECONDS):
                line = await self._process.stdout.readline()
            port = msgspec.json.decode(line, type=_Ready).port
        except (OSError, TimeoutError, msgspec.DecodeError) as error:
            await self.stop()
            raise DemoFailed(f"the demo model could not be started: {error or type(error).__name__}") from error
        return {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "demo"}

    async def stop(self) -> None:
        """End it, and reap it."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()  # it keeps nothing
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
