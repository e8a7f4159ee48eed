"""The conversation's CLI process: booted early, bound late, resumed from its transcript, watched while it lives."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Coroutine
from typing import Any

from claude_worker import cli, orphans
from claude_worker.frames import Frame
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest
from claude_worker.process import ClaudeProcess, ControlFailed, ProcessGone
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.turn import Turn

log = logging.getLogger(__name__)

_INITIALIZE_SECONDS = 60.0
_CONTROL_SECONDS = 15.0
_BOOT_ATTEMPTS = 3


class Engine:
    """Holds at most one process. `turn` is the one whose frames are being handed on."""

    def __init__(self, settings: WorkerSettings, ledger: Ledger, status: Status) -> None:
        self._settings = settings
        self._ledger = ledger
        self._status = status
        self._initializing: asyncio.Task[None] | None = None
        self._model = ""
        self._session_id = ""
        self._closing = False
        self._initialized = False
        self._failed_boots = 0
        self.process: ClaudeProcess | None = None
        self.turn: Turn | None = None

    async def boot(self) -> None:
        """Spawn the process. A known conversation is resumed at once; a fresh one waits for its system prompt.

        Raises OSError (no CLI, or it cannot be executed).
        """
        try:
            await self._spawn()
        except OSError as error:
            self._boot_failed(f"Claude Code cannot be started: {error}")
            raise

    async def _spawn(self) -> None:
        settings, state = self._settings, self._ledger.state
        resume = cli.transcript_path(settings.config_dir, state.claude_session_id) is not None
        if state.claude_session_id and not resume and self._ledger.entries:
            log.error("the transcript of %s is not on the volume; it begins anew", state.claude_session_id)
            self._ledger.forget()
            self._session_id = ""
        known = state.claude_session_id
        self._session_id = known or self._session_id or str(uuid.uuid4())
        self._model = state.model if resume else ""
        command = [cli.find_cli(), *cli.session_arguments(settings, self._session_id, resume=resume, model=self._model)]
        env = cli.environment(settings, os.environ, settings.config_dir)
        self._initialized = False
        self.process = await ClaudeProcess.spawn(
            command, cwd=settings.workspace, env=env, on_frames=self._on_frames, on_exit=self._on_exit
        )
        if known and not self._status.unbound:
            self._initialize(self._send_initialize(self.process, state.system_prompt))

    def _initialize(self, steps: Coroutine[Any, Any, None]) -> None:
        self._initializing = asyncio.create_task(steps)
        # Perhaps no turn comes that would ask how it ended; a CLI's exit is logged anyway.
        self._initializing.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _send_initialize(self, process: ClaudeProcess, system_prompt: str) -> None:
        field = "systemPrompt" if self._settings.system_prompt_mode == "replace" else "appendSystemPrompt"
        extra = {field: system_prompt} if system_prompt else {}
        answer = await process.control(_INITIALIZE_SECONDS, subtype="initialize", **extra)
        self._initialized = True
        self._failed_boots = 0
        self._status.cli_version = answer.get("claude_code_version", self._status.cli_version)

    def _boot_failed(self, last_words: str) -> None:
        """A conversation's own CLI did not come up; after a few times in a row another worker may do better."""
        self._failed_boots += 1
        if self._failed_boots >= _BOOT_ATTEMPTS and not self._status.ending:
            self._status.fail(last_words)

    async def bound(self, request: ChatRequest) -> ClaudeProcess:
        """The process, alive and initialized for this conversation; its id is on the volume before any prompt is.

        Raises OSError, ControlFailed, ProcessGone.
        """
        if self.process is None:
            await self.boot()
        assert self.process is not None, "boot sets it"
        process = self.process
        if self._initializing is None and (self._status.unbound or not self._ledger.state.claude_session_id):
            self._initialize(self._bind(process, request))
        if self._initializing is not None:
            try:
                # Shielded: a client that leaves now must not leave a half-bound process behind.
                await asyncio.shield(self._initializing)
            except (ControlFailed, ProcessGone, OSError):
                if process.alive:
                    await process.close()
                raise
            self._initializing = None
        return process

    async def _bind(self, process: ClaudeProcess, request: ChatRequest) -> None:
        state = self._ledger.state
        state.claude_session_id = self._session_id
        state.client_system = request.system_text()
        state.system_prompt = "" if self._settings.system_prompt_mode == "ignore" else state.client_system
        state.had_tools = bool(request.tools)
        writing = asyncio.to_thread(self._ledger.write, b"", self._ledger.encoded_state())
        await asyncio.gather(writing, self._send_initialize(process, state.system_prompt))
        self._status.bind()

    async def use_model(self, process: ClaudeProcess, model: str) -> None:
        """Switch the running conversation to `model` ("" is the CLI's default)."""
        if model == self._model:
            return
        wanted = model or self._settings.model or None
        await process.control(_CONTROL_SECONDS, subtype="set_model", model=wanted)
        self._model = self._ledger.state.model = model

    # -- callbacks of the process --------------------------------------------------------------------------------

    def _on_frames(self, received: list[Frame]) -> None:
        turn = self.turn
        for frame in received:
            if frame.type == "system":
                self._status.observe(frame)
            if turn is not None:
                turn.feed(frame)
            if frame.type == "result" and (turn is None or not turn.started):
                self._account_unasked(frame)
        if turn is not None and turn.outbox.full and self.process is not None:
            self.process.pause()
            turn.outbox.on_emptied = self.process.resume

    def _account_unasked(self, frame: Frame) -> None:
        """A turn that the CLI took up by itself: nobody reads it, but it costs."""
        state = self._ledger.state
        total = frame.total_cost_usd or 0.0
        state.totals.cost_usd += max(0.0, total - state.cli_cost_usd)
        state.cli_cost_usd = total
        self._status.publish()

    def _on_exit(self, process: ClaudeProcess) -> None:
        self.process = None
        self._initializing = None
        self._status.cli_gone()
        ended = orphans.end_all(ClaudeProcess.managed, spawning=ClaudeProcess.spawning)
        if self._closing:
            return
        log.error("%s (pid %s); %d processes it left were ended", process.describe_exit(), process.pid, ended)
        if self.turn is not None:
            message = f"{process.describe_exit()}. The conversation goes on with the next request."
            self.turn.end(ApiError(502, message, code="worker_cli_ended", retry=False))
        elif not self._ledger.state.claude_session_id:
            self._status.fail(process.describe_exit())
        elif not self._initialized:
            self._boot_failed(process.describe_exit())

    async def close(self) -> None:
        """End the process cleanly. One that still boots has nothing to write down, so it is not waited for."""
        self._closing = True
        if self.process is None:
            return
        if not self._initialized:
            self.process.kill()
        await self.process.close()
