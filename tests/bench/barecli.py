"""The limit: the CLI itself over its pipes, without anything of ours but the frames' decoder."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

from bench.load import Timed
from claude_worker import cli, frames
from claude_worker.frames import Frame
from claude_worker.process import ClaudeProcess
from claude_worker.settings import WorkerSettings
from local.harness import Model, clean_environment


class BareCli:
    """One CLI process, driven directly."""

    def __init__(self, model: Model, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._began = 0.0
        self._first = 0.0
        self._end = asyncio.Event()

    async def boot(self) -> None:
        """Spawn it; `initialize` is not sent yet."""
        settings = WorkerSettings(volume_dir=str(self._folder))
        for folder in (settings.workspace, settings.config_dir):
            folder.mkdir(parents=True)
        environ = clean_environment(self._model.environment())
        self.process = await ClaudeProcess.spawn(
            [cli.find_cli(), *cli.session_arguments(settings, str(uuid.uuid4()), resume=False)],
            cwd=settings.workspace,
            env=cli.environment(settings, environ, settings.config_dir),
            on_frames=self._take,
        )

    def _take(self, received: list[Frame]) -> None:
        for frame in received:
            delta = frame.event.delta if frame.event else None
            if not self._first and delta is not None and delta.text:
                self._first = time.perf_counter()
            if frame.type == "result":
                self._end.set()

    async def turn(self, text: str, *, initialize: bool = False) -> Timed:
        """One turn; with `initialize`, that is part of it."""
        self._first = 0.0
        self._end.clear()
        began = time.perf_counter()
        if initialize:
            await self.process.control(60, subtype="initialize", appendSystemPrompt="Be brief.")
        self.process.write(frames.user_message([{"type": "text", "text": text}], str(uuid.uuid4())))
        await self._end.wait()
        return Timed(self._first - began, time.perf_counter() - began, 0)

    async def close(self) -> None:
        await self.process.close()
