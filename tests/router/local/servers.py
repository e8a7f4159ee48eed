"""Whole servers over fake workers, each a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from claude_router.local import strays
from router.local.harness import FAKE, PATIENCE, eventually

ROOT = Path(__file__).resolve().parents[3]
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("crds", "operator", "router", "worker-image"))
SERVE = f"""
import sys
from claude_router.local import serve
serve.WORKER_COMMAND = {FAKE!r}
sys.exit(serve.main())
"""


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC", "CLAUDE"))}
    own = {"PORT": "0", "SESSIONS_DIR": str(folder / "sessions-dir"), "ANTHROPIC_API_KEY": "sk-x", "IS_SANDBOX": "1"}
    return {**env, "PYTHONPATH": SOURCES, **own, **extra}


class Server:
    """A running server over fake workers."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.errors: list[str] = []
        self.banner = self.url = ""
        self.reading = threading.Thread(target=self._read, args=(process.stderr,))
        self.reading.start()

    def until_ready(self, before_ready: Callable[[], None] | None) -> None:
        if before_ready is not None:
            eventually(lambda: self.errors)
            before_ready()
        assert self.process.stdout is not None
        while "Ctrl-C" not in self.banner:
            line = self.process.stdout.readline()
            assert line, "".join(self.errors)
            self.banner += line
        found = re.search(r"on http://localhost:(\d+)/v1", self.banner)
        assert found, self.banner
        self.url = f"http://127.0.0.1:{found[1]}"

    def _read(self, stream: Any) -> None:
        for line in stream:
            self.errors.append(line)

    def turn(self, conversation: str, **body: Any) -> dict[str, Any]:
        asked = {"model": "claude-code", "messages": [{"role": "user", "content": "hello"}], **body}
        headers = {"X-Conversation-ID": conversation}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=asked, headers=headers, timeout=PATIENCE)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def busy(self) -> int:
        return int(httpx.get(f"{self.url}/health").json()["pool"]["busy"])

    def marked(self) -> list[int]:
        """Every process of its workers."""
        return strays.find(f"{self.folder}/sessions-dir/volumes/", prefix=True)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self.reading.join()
        return status


@contextmanager
def server(folder: Path, before_ready: Callable[[], None] | None = None, **extra: str) -> Iterator[Server]:
    """`before_ready` is called once it has said something on standard error."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], env=environment(folder, extra), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        running = Server(process, folder)
        try:
            running.until_ready(before_ready)
            yield running
        finally:
            process.kill()
            process.wait()
            running.reading.join()


def fails(folder: Path, **extra: str) -> tuple[int, str]:
    """Exit status and standard error of a server that does not come to serve."""
    done = subprocess.run(
        [sys.executable, "-m", "claude_router"], env=environment(folder, extra),
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


def refused(url: str) -> bool:
    """Whether nobody listens there."""
    address = httpx.URL(url)
    with socket.socket() as sock:
        return sock.connect_ex((address.host, address.port or 0)) != 0


def busy_worker(s: Server) -> int:
    """Process id of the worker that has conversations; the spare has none."""
    [record] = (s.folder / "sessions-dir" / "sessions").glob("*.json")
    volume = json.loads(record.read_bytes())["volume"]
    [pid] = strays.find(f"{s.folder}/sessions-dir/volumes/{volume}#", prefix=True)
    return pid


def release(worker: int) -> None:
    """End the held turn of the fake worker with this process id."""
    os.kill(worker, signal.SIGUSR1)
