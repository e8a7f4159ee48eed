"""Processes that the benchmark starts and looks at: each in a session of its own, gone with all its children."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from local.harness import SOURCES, clean_environment, eventually
from local.server import free_port

_TESTS = Path(__file__).resolve().parents[1]
_START_SECONDS = 120.0
_END_SECONDS = 10.0
_STILL_SECONDS = 0.4
_BOOTED_CPU_SECONDS = 0.2
"""Less than a boot of the CLI takes (0.4 s): on a busy machine, one that has not had its turn yet is still as well."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Service:
    """A running server: its process id, and where it listens."""

    pid: int
    url: str

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far, of all its threads."""
        return cpu_seconds(self.pid)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The tests' clean environment, without a proxy: nothing here leaves this machine."""
    env = clean_environment({"PYTHONPATH": os.pathsep.join([SOURCES, str(_TESTS)]), **extra})
    return {name: value for name, value in env.items() if not name.lower().endswith("_proxy")}


@contextmanager
def service(
    name: str, folder: Path, command: Sequence[str], *, env: Mapping[str, str], port: int = 0
) -> Iterator[Service]:
    """A server that `command` starts on `port`; `{port}` in it stands for that. It runs in `folder/name`.

    Raises RuntimeError, with the end of what it printed, when it ends before it listens.
    """
    place = folder / name
    place.mkdir()
    port = port or free_port()
    words = [word.replace("{port}", str(port)) for word in command]
    log = place / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=dict(env), cwd=place, stdin=subprocess.PIPE, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, _START_SECONDS)
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended at once: {log.read_text(errors='replace')[-1000:]}")
        yield Service(process.pid, f"http://127.0.0.1:{port}")
    finally:
        _end(process)


def ours(name: str, folder: Path, *arguments: str, **env: str) -> AbstractContextManager[Service]:
    """`python -m bench.NAME PORT arguments`; `env` is added to its environment."""
    command = [sys.executable, "-m", f"bench.{name}", "{port}", *arguments]
    return service(name, folder, command, env=environment(env))


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its lifeline, SIGTERM, then SIGKILL for whatever of its session is still there."""
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def until_still(pid: int) -> None:
    """Until a process has done its work for now: it has used CPU, but next to none for a while. Raises OSError.

    A CLI that was booted says nothing before it gets `initialize`; there is no event to wait for.
    """
    deadline = time.monotonic() + _START_SECONDS
    before = cpu_seconds(pid)
    while True:
        await asyncio.sleep(_STILL_SECONDS)
        now = cpu_seconds(pid)
        if now >= _BOOTED_CPU_SECONDS and now - before <= 1 / _TICKS:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not come to rest")
        before = now
