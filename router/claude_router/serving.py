"""The process around the application: socket, event loop, signals and HTTP server. For every way to run a router."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal

import uvicorn

from claude_worker.bounds import Bounds
from claude_worker.connections import Form, connections
from claude_worker.dialect import MESSAGES
from claude_worker.openai.errors import ApiError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Leaves the signals alone: they are handled here, because there is more to end than the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # then uvicorn leaves the application's own end out, connections to workers and all
            await self.lifespan.shutdown()


class Signals:
    """The first and the second request to stop. Made on the event loop."""

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


def error_of_path(error: ApiError, target: bytes) -> bytes:
    """The error as the API of the path has it, for a request that no application has seen."""
    return MESSAGES.error(error) if target.startswith(MESSAGES.path.encode()) else error.body()


def server_of(
    app: Any,
    *,
    grace: float,
    lifespan: Literal["on", "off"] = "on",
    form: Form = error_of_path,
    bounds: Bounds | None = None,
) -> Server:
    """The server of the application. Once it is told to stop, connections have `grace` seconds to end."""
    server = Server(uvicorn.Config(
        app, log_config=None, access_log=False, lifespan=lifespan, http=connections(form, bounds), ws="none",
        server_header=False, timeout_graceful_shutdown=int(grace),
    ))  # fmt: skip
    # What is loaded now stays: leaving it out of collections took the slowest of 1,000 requests from 48 ms to 10 ms.
    gc.collect()
    gc.freeze()
    return server


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=2048)
    sock.setblocking(False)
    # asyncio sets this only on sockets whose protocol number is given; accepted ones inherit it from here.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """What to tell whoever chose that address."""
    # A negative number is the resolver's, of which strerror knows nothing.
    reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return f"cannot listen on {host}:{port} ({reason}): set PORT or HOST to another"


def on_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run it on the fastest event loop that there is."""
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.run(main())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"claude_router: {message}", file=sys.stderr, flush=True)
