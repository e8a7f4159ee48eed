"""Processes that a dead worker left behind: found by a mark in their environment, which every descendant inherits.

A command that the model started may have left its process group and lost its parent; only the mark still tells whose it
was. In a pod they all die with the pod; on one machine this is what does it. Needs /proc (Linux); elsewhere the process
group has to do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "CLAUDE_CODE_API_WORKER"
"""Variable in a worker's environment: `<volume>#<worker name>`, unlike that of any other worker."""

_POLL_SECONDS = 0.05


def find(value: str, *, prefix: bool = False) -> list[int]:
    """Ids of the processes whose mark is `value`, or begins with it. Never this process."""
    needle = f"\0{MARK}={value}".encode() + (b"" if prefix else b"\0")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        # Gone meanwhile, or somebody else's.
        with contextlib.suppress(OSError):
            if needle in b"\0" + (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def kill(value: str, *, prefix: bool = False) -> int:
    """SIGKILL every process so marked, also those that appear meanwhile; returns how many."""
    killed: set[int] = set()
    for _ in range(5):
        found = [pid for pid in find(value, prefix=prefix) if pid not in killed]
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
    return len(killed)


def await_end(value: str, seconds: float) -> int:
    """Wait up to `seconds` for the processes marked with the prefix `value` to end, then kill the rest.

    Returns how many were killed. Blocks: for the start of the server, before it serves.
    """
    deadline = time.monotonic() + seconds
    while find(value, prefix=True):
        if time.monotonic() > deadline:
            return kill(value, prefix=True)
        time.sleep(_POLL_SECONDS)
    return 0
