"""The processes of pods, as this machine sees them where the node shares its kernel: a bare node's, and kind's."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def processes(uid: str, *words: bytes) -> list[int]:
    """Ids of the processes of the pod with this uid whose command line holds all the words."""
    marks = (uid.encode(), uid.replace("-", "_").encode())
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            group, command = (folder / "cgroup").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if any(mark in group for mark in marks) and all(word in command for word in words):
            found.append(int(folder.name))
    return sorted(found)


def kill(uid: str, *words: bytes, number: int = signal.SIGKILL) -> int:
    """Send a signal to those of the pod's processes; returns to how many."""
    found = processes(uid, *words)
    for pid in found:
        os.kill(pid, number)
    return len(found)
