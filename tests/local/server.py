"""The whole server, `python -m claude_router`, as a process of its own with the scripted model behind it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.harness import Json, Model, alive, clean_environment, descendants, eventually

_READY = "Application startup complete"


@dataclass
class Server:
    """A running server. `output` is what it printed, line by line."""

    process: subprocess.Popen[str]
    url: str
    output: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    def client(self, conversation: str = "", **options: Any) -> httpx.Client:
        headers = {"X-Conversation-ID": conversation} if conversation else {}
        return httpx.Client(base_url=self.url, headers=headers | options.pop("headers", {}), timeout=90, **options)

    def health(self) -> Json:
        found: Json = httpx.get(f"{self.url}/health", timeout=30).json()
        return found

    def pool(self) -> Json:
        found: Json = self.health()["pool"]
        return found

    def conversation(self, name: str) -> Json:
        found: Json = httpx.get(f"{self.url}/conversations/{name}", timeout=30).json()
        return found

    def until(self, **pool: int) -> None:
        """Wait until the pool's figures are these."""
        eventually(lambda: {k: v for k, v in self.pool().items() if k in pool} == pool)

    def until_phase(self, name: str, phase: str) -> None:
        eventually(lambda: self.conversation(name).get("phase") == phase)

    def until_quiet(self) -> None:
        """Every turn has been written down."""
        eventually(lambda: self.pool()["busy"] == 0)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it and check that nothing it started is left; returns the exit status."""
        family = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        eventually(lambda: not [pid for pid in family if alive(pid)])
        return status


def _read(server: Server) -> None:
    assert server.process.stdout is not None
    with server.process.stdout as lines:
        for line in lines:
            server.output.append(line)
            if _READY in line:
                server.ready.set()
    server.ready.set()


def launch(sessions: Path, env: Mapping[str, str], port: int = 0) -> Server:
    """Start a server; returns at once. `port` 0 takes a free one."""
    port = port or free_port()
    chosen = {"SESSIONS_DIR": str(sessions), "PORT": str(port), "MODEL_RETRIES": "1", **env}
    process = subprocess.Popen(
        [sys.executable, "-m", "claude_router"],
        env=clean_environment(chosen),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process, f"http://127.0.0.1:{port}")
    threading.Thread(target=_read, args=(server,), daemon=True).start()
    return server


@contextmanager
def serving(model: Model | None, sessions: Path, **settings: str) -> Iterator[Server]:
    """A server that is ready; on leaving it is stopped, and must leave nothing behind."""
    server = launch(sessions, (model.environment() if model else {}) | settings)
    try:
        assert server.ready.wait(60), "".join(server.output)
        assert server.process.poll() is None, "".join(server.output)
        yield server
    finally:
        server.end()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def open_files(pid: int) -> int:
    """How many file descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    """A process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
