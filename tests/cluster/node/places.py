"""Where the cluster's things lie, and the errors that end a verb."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
"""The repository."""


class Trouble(Exception):
    """What went wrong and what to do, in a line or a few: the verb ends with it."""


def cache() -> Path:
    """The folder that is kept between runs: binaries (by version), the state of a running cluster."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "claude-code-api"


def say(line: str) -> None:
    """A line of progress. Standard output is for what a script reads."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def alone() -> Iterator[None]:
    """One verb at a time changes the cluster or the cache; a second one waits."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another cluster command to end …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
