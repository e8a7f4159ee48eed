"""The conversation's CLI process: booted early, bound late, placed anywhere in the memory, watched while it lives."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Coroutine
from typing import Any

from claude_worker import cli, costs, orphans, placement, setup
from claude_worker.bridge import Bridge, ClientCall
from claude_worker.frames import Frame, control_answer
from claude_worker.history import Node
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import ApiError
from claude_worker.process import ClaudeProcess, ControlFailed, ProcessGone
from claude_worker.settings import WorkerSettings
from claude_worker.setup import Setup
from claude_worker.status import Status
from claude_worker.translate import Translator
from claude_worker.turn import Turn

log = logging.getLogger(__name__)

_INITIALIZE_SECONDS = 60.0
_CONTROL_SECONDS = 15.0
_INTERRUPT_SECONDS = 5.0
_BOOT_ATTEMPTS = 3


class Engine:
    """Holds at most one process. `turn` is the one whose frames are being handed on.

    `parked` is a turn whose answer has ended with calls of the client's tools, while the CLI waits for their results.
    """

    def __init__(self, settings: WorkerSettings, ledger: Ledger, status: Status) -> None:
        self._settings = settings
        self._ledger = ledger
        self._status = status
        self._initializing: asyncio.Task[None] | None = None
        self._model = ""
        self._session_id = ""
        self._closing = False
        self._replacing = False
        self._initialized = False
        self._failed_boots = 0
        self._setup_file = settings.volume / "setup.json"
        self.setup = setup.read(self._setup_file)
        self.bridge: Bridge | None = None
        self.process: ClaudeProcess | None = None
        self.turn: Turn | None = None
        self.parked: Turn | None = None

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
        settings, ledger, state = self._settings, self._ledger, self._ledger.state
        self._session_id = placement.session_of(ledger, settings.config_dir, self._session_id)
        resumed, arguments = placement.arguments(ledger, settings, self.setup, self._session_id)
        self._model = state.model if resumed else ""
        command = [cli.find_cli(), *arguments]
        env = cli.environment(settings, os.environ, settings.config_dir)
        self._initialized = False
        self.bridge = None
        self.process = await ClaudeProcess.spawn(
            command,
            cwd=settings.workspace,
            env=env,
            on_frames=self._on_frames,
            on_exit=self._on_exit,
            on_request=self._on_request,
        )
        if self._closing:
            self.process.kill()
        if state.claude_session_id and not self._status.unbound:
            self._initialize(self._send_initialize(self.process, state.system_prompt))

    def _initialize(self, steps: Coroutine[Any, Any, None]) -> None:
        self._initializing = asyncio.create_task(steps)
        # Perhaps no turn comes that would ask how it ended; a CLI's exit is logged anyway.
        self._initializing.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _send_initialize(self, process: ClaudeProcess, system_prompt: str) -> None:
        if self.setup.client:
            self.bridge = Bridge(self.setup.client, process.write, self._on_call)
        fields = self.setup.initialize_fields(system_prompt, self._settings.system_prompt_mode)
        answer = await process.control(_INITIALIZE_SECONDS, subtype="initialize", **fields)
        self._initialized = True
        self._failed_boots = 0
        self._status.cli_version = answer.get("claude_code_version", self._status.cli_version)

    def _boot_failed(self, last_words: str) -> None:
        """A conversation's own CLI did not come up; after a few times in a row another worker may do better."""
        self._failed_boots += 1
        if self._failed_boots >= _BOOT_ATTEMPTS and not self._status.ending:
            self._status.fail(last_words)

    async def stay(self, wanted: Setup, system: str) -> ClaudeProcess:
        """The process where the conversation is, alive, initialized and set up as `wanted`.

        Its session's id is on the volume before any prompt is. Raises OSError, ControlFailed, ProcessGone.
        """
        fresh = not self._ledger.state.claude_session_id
        fits = wanted.spawns_like(self.setup) if fresh and self._initializing is None else wanted == self.setup
        if self.process is not None and not fits:
            await self._end_process()
        changed = wanted != self.setup
        self.setup = wanted
        process = await self._bound(system)
        if changed and not fresh:
            await asyncio.to_thread(setup.write, self._setup_file, wanted)
        return process

    async def move(self, node: Node, wanted: Setup, system: str) -> ClaudeProcess:
        """The process at `node`, in a new Claude session: a fork of the node's, or an empty one at the root."""
        await self._end_process()
        state = self._ledger.state
        state.claude_session_id = self._session_id = str(uuid.uuid4())
        state.tip, state.clean = node.prefix, True
        state.fork = (node.session, node.uuid) if node.session else None
        if not node.session:
            self._set_system(system)
        self.setup = wanted
        _, process = await asyncio.gather(asyncio.to_thread(self._write), self._bound(system))
        return process

    async def _bound(self, system: str) -> ClaudeProcess:
        if self.process is None:
            await self.boot()
        assert self.process is not None, "boot sets it"
        process = self.process
        if self._initializing is None and not self._initialized:
            self._initialize(self._bind(process, system))
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

    async def _bind(self, process: ClaudeProcess, system: str) -> None:
        state = self._ledger.state
        if not state.claude_session_id:
            state.claude_session_id = self._session_id
            self._set_system(system)
        writing = asyncio.to_thread(self._write)
        await asyncio.gather(writing, self._send_initialize(process, state.system_prompt))
        self._status.bind()

    def _write(self) -> None:
        setup.write(self._setup_file, self.setup)
        self._ledger.write([], self._ledger.encoded_state())

    def _set_system(self, system: str) -> None:
        state = self._ledger.state
        state.client_system = system
        state.system_prompt = "" if self._settings.system_prompt_mode == "ignore" else system

    async def use_model(self, process: ClaudeProcess, model: str) -> None:
        """Switch the running conversation to `model` ("" is the CLI's default)."""
        if model == self._model:
            return
        wanted = model or self._settings.model or None
        await process.control(_CONTROL_SECONDS, subtype="set_model", model=wanted)
        self._model = self._ledger.state.model = model

    def _on_request(self, frame: Frame) -> bytes | None:
        """The answer to the CLI's control request; None: it comes later."""
        bridge = self.bridge
        if bridge is None or (frame.request or {}).get("subtype") != "mcp_message":
            return control_answer(frame)
        return bridge.handle(frame)

    def _on_call(self, call: ClientCall) -> None:
        turn = self.turn or self.parked
        if turn is not None and turn.started:
            turn.put(turn.translator.announce(call))
            turn.judge()
        elif self.bridge is not None:
            # Of a turn that no request asked for: nobody can be asked to run it.
            self.bridge.cancel(call.id)

    def unparked(self) -> None:
        """The results have come, and the turn goes on."""
        self.parked = None
        self._status.unpark()

    async def unpark(self) -> None:
        """Give up the turn that waits for its client's tools: its calls get an error, and it does not go on."""
        process, parked = self.process, self.parked
        self.unparked()
        if parked is None or process is None or not process.alive:
            return
        translator = Translator(tool_activity="off")
        translator.resumed(parked.translator)
        ended = Turn(translator, parked.head.model, parked.head.created)
        ended.prompt, ended.started = parked.prompt, True
        self.turn = ended
        self._ledger.state.clean = False
        await self.interrupt(process, ended)
        self.turn = None
        costs.unasked(self._ledger.state, translator.cost_total)

    async def interrupt(self, process: ClaudeProcess, turn: Turn) -> None:
        """Have the CLI stop the turn; a CLI that does not is ended."""
        try:
            async with asyncio.timeout(_INTERRUPT_SECONDS):
                await process.control(_INTERRUPT_SECONDS, subtype="interrupt", cancel_queued=True)
                if self.bridge is not None:
                    self.bridge.cancel()
                await turn.over.wait()
        except (TimeoutError, ControlFailed, ProcessGone):
            log.error("the CLI (pid %s) did not stop at an interrupt; ending it", process.pid)
            await process.close(_INTERRUPT_SECONDS)

    def _on_frames(self, received: list[Frame]) -> None:
        turn = self.turn
        for frame in received:
            if frame.type == "system":
                self._status.observe(frame)
            if turn is not None:
                turn.feed(frame)
            elif self.parked is not None:
                self.parked.translator.feed(frame)
            if frame.type == "result" and (turn is None or not turn.started):
                self._unasked(frame)
        if turn is not None and turn.full and self.process is not None:
            self.process.pause()
            turn.on_emptied(self._on_emptied)

    def _unasked(self, frame: Frame) -> None:
        """A turn that the CLI took up by itself: nobody reads it, but it costs."""
        state = self._ledger.state
        costs.unasked(state, frame.total_cost_usd or 0.0)
        # What a parked turn did by itself follows what was the end of the history.
        state.clean = state.clean and self.parked is None
        self.unparked()
        self._status.publish()

    def _on_emptied(self) -> None:
        if self.process is not None and not (self.turn is not None and self.turn.full):
            self.process.resume()

    def _on_exit(self, process: ClaudeProcess) -> None:
        self.process = self._initializing = None
        self.unparked()
        self._status.cli_gone()
        ended = orphans.end_all(ClaudeProcess.managed, spawning=ClaudeProcess.spawning)
        if self._closing or self._replacing:
            return
        log.error("%s (pid %s); %d processes it left were ended", process.describe_exit(), process.pid, ended)
        if self.turn is not None:
            message = f"{process.describe_exit()}. The conversation goes on with the next request."
            self.turn.end(ApiError(502, message, code="worker_cli_ended", retry=False))
        elif not self._ledger.state.claude_session_id:
            self._status.fail(process.describe_exit())
        elif not self._initialized:
            self._boot_failed(process.describe_exit())

    async def _end_process(self) -> None:
        """End the process, because another is to take its place."""
        if self.parked is not None:
            await self.unpark()
        if (process := self.process) is None:
            return
        self._replacing = True
        try:
            if not self._initialized:
                process.kill()
            await process.close()
        finally:
            self._replacing = False
        self._initialized = False

    async def close(self) -> None:
        """End the process cleanly. One that still boots has nothing to write down, so it is not waited for."""
        self._closing = True
        await self._end_process()

    async def reopen(self) -> None:
        """Begin again on a volume that was replaced while closed."""
        self._closing, self._session_id = False, ""
        self.setup = await asyncio.to_thread(setup.read, self._setup_file)
        await self.boot()
