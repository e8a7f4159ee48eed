"""`python -m claude_router`: the endpoint on one machine, from settings to the last reaped process.

The first SIGINT or SIGTERM lets running turns end (for SHUTDOWN_GRACE_MS at most) and suspends every conversation; a
second one kills the workers. Either way nothing is left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import uvicorn

import claude_crds
from claude_crds.settings import SettingsError, load
from claude_router.app import create_app
from claude_router.local.banner import banner, complain, permission_problem, url_of
from claude_router.local.demo_model import DemoFailed, DemoModel
from claude_router.local.environment import CREDENTIALS, passed_on, worker_environment
from claude_router.local.pool import LocalSessions, PoolLimits
from claude_router.local.store import Store, StoreError
from claude_router.local.workers import Launch
from claude_router.logs import configure
from claude_router.settings import RouterSettings

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_BYTES_SECONDS = 10.0
"""After the last worker is gone, how long a slow client may take to read the end of its answer."""

# `-P`: the working directory is not where Python looks for modules.
WORKER_COMMAND = (sys.executable, "-P", "-m", "claude_worker")


class _Server(uvicorn.Server):
    """Leaves the signals alone: they are handled here, because workers must be drained between two of its steps."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # then uvicorn leaves the application's own end out, connections to workers and all
            await self.lifespan.shutdown()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: checked settings, and what the banner says about them."""

    settings: RouterSettings
    demo: bool
    permission_note: str


def plan(environ: Mapping[str, str]) -> Plan:
    """Read and check the settings. Raises SettingsError."""
    settings = load(RouterSettings, environ)
    if not settings.workspace_per_conversation and settings.workspace_path is None:
        raise SettingsError("WORKSPACE_PER_CONVERSATION='false': needs WORKSPACE_DIR, the one folder for all")
    problem = permission_problem(settings, environ)
    if problem and environ.get("PERMISSION_MODE"):
        raise SettingsError(problem)
    if problem:
        settings = replace(settings, permission_mode="acceptEdits")
    return Plan(settings, not any(environ.get(name) for name in CREDENTIALS), problem or "")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=2048)
    sock.setblocking(False)
    # asyncio sets this only on sockets whose protocol number is given; accepted ones inherit it from here.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def main() -> int:
    """Run until a signal; returns the exit status: 0, 1 (cannot run), 2 (settings), 128 + signal (stopped twice)."""
    try:
        chosen = plan(os.environ)
    except SettingsError as error:
        complain(str(error))
        return 2
    settings = chosen.settings
    configure(settings.log_format)
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        # A negative number is the resolver's, of which strerror knows nothing.
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        complain(f"cannot listen on {settings.host}:{settings.port} ({reason}): set PORT or HOST to another")
        return 1
    with sock:
        try:
            store = Store.open(
                settings.sessions_path,
                workspace_dir=settings.workspace_path,
                per_conversation=settings.workspace_per_conversation,
            )
        except StoreError as error:
            complain(str(error))
            return 1
        try:
            return _on_loop(chosen, sock, store)
        except DemoFailed as error:
            complain(str(error))
            return 1
        finally:
            store.close()


def _on_loop(chosen: Plan, sock: socket.socket, store: Store) -> int:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.run(_serve(chosen, sock, store))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(chosen, sock, store))


async def _serve(chosen: Plan, sock: socket.socket, store: Store) -> int:
    settings = chosen.settings
    signals = _Signals()
    demo = DemoModel()
    try:
        environ = dict(os.environ)
        if chosen.demo:
            environ |= await demo.start(passed_on(environ))
        limits = PoolLimits(settings.pool_size, settings.warm_workers, settings.idle_timeout, settings.shutdown_grace)
        sessions = LocalSessions(store, Launch(WORKER_COMMAND, worker_environment(settings, environ)), limits)
        sessions.begin()
        url = url_of(settings.host, sock.getsockname()[1])
        print(banner(settings, url, demo=chosen.demo, permission_note=chosen.permission_note), flush=True)
        await _until_stopped(settings, sock, sessions, signals)
        return signals.exit_status
    finally:
        await demo.stop()


async def _until_stopped(
    settings: RouterSettings, sock: socket.socket, sessions: LocalSessions, signals: _Signals
) -> None:
    app = create_app(settings, sessions, version=claude_crds.__version__)
    server = _Server(uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", http="httptools", ws="none", server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace + _LAST_BYTES_SECONDS),
    ))  # fmt: skip
    # What is loaded now stays: leaving it out of collections took the slowest of 1,000 requests from 48 ms to 10 ms.
    gc.collect()
    gc.freeze()
    serving = asyncio.create_task(server.serve([sock]))
    first = asyncio.create_task(signals.first.wait())
    await asyncio.wait([serving, first], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: conversations are being suspended")
    app.state.running.drain()
    sessions.refuse()
    server.should_exit = True
    closing = asyncio.create_task(sessions.close(settings.shutdown_grace))
    second = asyncio.create_task(signals.second.wait())
    await asyncio.wait([closing, second], return_when=asyncio.FIRST_COMPLETED)
    if signals.second.is_set():
        server.force_exit = True
        sessions.kill()
    await closing
    await serving
    for task in (first, second):
        task.cancel()


class _Signals:
    """The first and the second request to stop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._number = 0
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if self.first.is_set():
            self.second.set()
            self._number = number
        self.first.set()

    @property
    def exit_status(self) -> int:
        """0 after an orderly end."""
        return 128 + self._number if self._number else 0
