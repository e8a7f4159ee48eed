"""One worker a volume: two CLIs on one session would interleave their turns in its transcript."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from claude_worker.ledger import VolumeError


@contextmanager
def lock_volume(volume: Path) -> Iterator[None]:
    """Hold the volume's lock. Raises VolumeError when another worker has it. The kernel frees it when we die."""
    with (volume / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VolumeError("another worker uses this session volume") from error
        yield
