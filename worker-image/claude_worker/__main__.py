"""`python -m claude_worker`: start the CLI, then serve it, until SIGTERM or the end of standard input.

Prints one JSON line, `{"port": N, "pid": P}`, once it listens. The CLI is spawned before the HTTP server is even
imported, so that both start at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from claude_crds.settings import SettingsError
from claude_worker import orphans
from claude_worker.cli import bundled_version
from claude_worker.conversation import Conversation
from claude_worker.ledger import Ledger, VolumeError
from claude_worker.logs import configure
from claude_worker.settings import WorkerSettings, load_settings
from claude_worker.status import Status
from claude_worker.volume import lock_volume

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)

_STOP_GRACE_SECONDS = 10.0


def _read_token(settings: WorkerSettings) -> str:
    if settings.token_file == "-":
        return sys.stdin.readline().strip()
    return Path(settings.token_file).read_text().strip() if settings.token_file else ""


async def _watch_stdin(stop: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while await reader.read(4096):
        pass
    stop.set()


def _server(settings: WorkerSettings, conversation: Conversation, ledger: Ledger, status: Status) -> uvicorn.Server:
    import uvicorn  # noqa: PLC0415 - after the CLI was spawned, see above

    from claude_worker.app import WorkerApp  # noqa: PLC0415

    app = WorkerApp(settings, conversation, ledger, status, _read_token(settings)).asgi()
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_keep_alive=75)
    return uvicorn.Server(config)


async def _run(settings: WorkerSettings, ledger: Ledger) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    status = Status(ledger.state, bundled_version())
    conversation = Conversation(settings, ledger, status)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await conversation.engine.boot()
    except OSError as error:
        status.fail(f"Claude Code cannot be started: {error}")
    sock = socket.create_server((settings.host, settings.port), backlog=256)
    # asyncio sets this only on sockets whose protocol number is given; accepted ones inherit it from here.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _server(settings, conversation, ledger, status)
    # uvicorn would take over the signals; they are ours, since a drain comes before the end.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve([sock]))
    print(json.dumps({"port": sock.getsockname()[1], "pid": os.getpid()}), flush=True)
    watching = asyncio.create_task(_watch_stdin(stop)) if settings.watch_stdin else None
    await stop.wait()
    orphaned = watching is not None and watching.done()
    await conversation.drain(force=True, grace=0 if orphaned else _STOP_GRACE_SECONDS)
    server.should_exit = True
    server.force_exit = orphaned
    await serving
    orphans.end_all((), spawning=0)
    return 0


def main() -> int:
    """Entry point; returns the exit status."""
    try:
        settings = load_settings(os.environ)
        if not settings.volume_dir:
            raise SettingsError("VOLUME_DIR is not set: it must name the session's volume")
        configure(settings.log_format)
        for folder in (settings.volume, settings.workspace, settings.config_dir):
            folder.mkdir(parents=True, exist_ok=True)
        with lock_volume(settings.volume):
            orphans.become_subreaper()
            return _loop(settings)
    except (SettingsError, VolumeError, OSError) as error:
        print(f"claude_worker: {error}", file=sys.stderr)
        return 2


def _loop(settings: WorkerSettings) -> int:
    ledger = Ledger(settings.volume)
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(_run(settings, ledger))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, ledger))


if __name__ == "__main__":
    sys.exit(main())
