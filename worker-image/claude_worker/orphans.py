"""Adopting and ending what a CLI leaves behind.

A killed CLI cannot end the shells it started. As sub-reaper the worker becomes their parent, so it can find them, end
them and collect them; as a pod's process 1 it has that duty anyway. Linux only; elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 20


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children from now on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """Process ids of this process's direct children."""
    found: set[int] = set()
    if sys.platform == "linux":
        for listing in Path("/proc/self/task").glob("*/children"):
            with suppress(OSError):
                found.update(int(pid) for pid in listing.read_text().split())
    return found


def reap(keep: Collection[int], *, spawning: int) -> None:
    """Collect adopted children that have ended. `keep`: processes whose end somebody else waits for.

    While any are `spawning` their ids are unknown, so nothing is touched.
    """
    for pid in children() - set(keep) if not spawning else ():
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_all(keep: Collection[int], *, spawning: int) -> int:
    """SIGKILL every adopted child, and theirs as they are adopted in turn; returns how many were ended."""
    ended: set[int] = set()
    for _ in range(_ROUNDS):
        adopted = children() - set(keep)
        if not adopted or spawning:
            break
        for pid in adopted:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            ended.add(pid)
    return len(ended)
