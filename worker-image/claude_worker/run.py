"""The worker's process: start the CLI, then serve it, until SIGTERM or the end of standard input.

Prints one JSON line, `{"port": N, "pid": P}`, once it listens. The CLI is spawned before the HTTP server is even
imported, so that both start at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from claude_crds.settings import SettingsError
from claude_worker import clone, orphans, seed
from claude_worker.cli import bundled_version
from claude_worker.conversation import Conversation
from claude_worker.guard import Guard, read_guard
from claude_worker.ledger import Ledger, VolumeError
from claude_worker.logs import configure
from claude_worker.settings import WorkerSettings, load_settings
from claude_worker.status import Status
from claude_worker.volume import lock_volume

if TYPE_CHECKING:
    import uvicorn

_LAST_BYTES_SECONDS = 5
"""How long a client that reads slowly may take for what it is still to get when the worker ends."""


async def _watch_stdin(stop: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while await reader.read(4096):
        pass
    stop.set()


class _Worker:
    """What one process consists of, from its start to its end."""

    def __init__(self, settings: WorkerSettings, guard: Guard) -> None:
        self._settings = settings
        self._guard = guard
        self._ledger = Ledger(settings.volume)
        self._status = Status(self._ledger.state, bundled_version())
        self._conversation = Conversation(settings, self._ledger, self._status)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Until SIGTERM, SIGINT or the end of standard input; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._conversation.begin()
        except OSError as error:
            self._status.fail(f"Claude Code cannot be started: {error}")
        await self._serve(self._server())
        orphans.end_all((), spawning=0)
        return 0

    def _server(self) -> uvicorn.Server:
        import uvicorn  # noqa: PLC0415 - after the CLI was spawned, see above

        from claude_worker.app import WorkerApp  # noqa: PLC0415
        from claude_worker.bounds import WITH_A_ROUTER  # noqa: PLC0415
        from claude_worker.connections import connections  # noqa: PLC0415

        app = WorkerApp(self._settings, self._conversation, self._ledger, self._status, self._guard).asgi()
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=connections(bounds=WITH_A_ROUTER),
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
        )
        server = uvicorn.Server(config)
        # uvicorn would take over the signals; they are ours, since a drain comes before the end.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        return server

    async def _serve(self, server: uvicorn.Server) -> None:
        settings = self._settings
        sock = socket.create_server((settings.host, settings.port), backlog=256)
        # asyncio sets this only on sockets whose protocol number is given; accepted ones inherit it from here.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serving = asyncio.create_task(server.serve([sock]))
        print(json.dumps({"port": sock.getsockname()[1], "pid": os.getpid()}), flush=True)
        watching = asyncio.create_task(_watch_stdin(self._stop)) if settings.watch_stdin else None
        await self._stop.wait()
        orphaned = watching is not None and watching.done()
        await self._conversation.drain(force=True, grace=0 if orphaned else settings.stop_grace)
        server.should_exit = True
        server.force_exit = orphaned
        await serving


def main() -> int:
    """Entry point; returns the exit status."""
    try:
        settings = load_settings(os.environ)
        if not settings.volume_dir:
            raise SettingsError("VOLUME_DIR is not set: it must name the session's volume")
        guard = read_guard(settings)
        configuration = seed.read(settings.seed)
        configure(settings.log_format)
        for folder in (settings.volume, settings.workspace, settings.config_dir):
            folder.mkdir(parents=True, exist_ok=True)
        with lock_volume(settings.volume):
            seed.plant(configuration, settings.config_dir)
            clone.clone_here(os.environ)
            orphans.become_subreaper()
            return _loop(settings, guard)
    except (SettingsError, VolumeError, clone.CloneError, OSError) as error:
        print(f"claude_worker: {error}", file=sys.stderr)
        return 2


def _loop(settings: WorkerSettings, guard: Guard) -> int:
    worker = _Worker(settings, guard)
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(worker.run())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(worker.run())
