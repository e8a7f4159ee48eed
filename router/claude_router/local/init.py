"""Process 1's duty, when the server is one (a container without an init): collect the dead that nobody else will.

A killed worker's orphans become children of process 1. The server cannot collect them beside its own children, so it
runs as a child of a process that does nothing else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_with_init(serve: Callable[[], int]) -> int:
    """`serve()`, under an init of its own if this is process 1. To be called before there are threads."""
    return supervise(serve) if os.getpid() == 1 else serve()


def supervise(serve: Callable[[], int]) -> int:
    """Fork: the child serves and returns as usual; this process passes signals on to it until it ends.

    Returns the child's exit status, 128 + N if it was killed by signal N. With this process all others of the
    container end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        # A group of its own: Ctrl-C in a terminal would else reach it twice, and the second one means "at once".
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        return serve()

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
