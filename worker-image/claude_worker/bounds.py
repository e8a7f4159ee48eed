"""How much a client may send before it has said what it wants, and how long it may take for each part."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes in bytes, times in seconds. The defaults for a body are those of Apache's mod_reqtimeout."""

    head_bytes: int = 65_536
    """Of request line and headers, or of what frames a body (trailers, extensions of chunks)."""
    headers: int = 256
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    """For a body to come, and a second more for each `body_rate` bytes of it."""
    body_rate: int = 500
    unread_seconds: float = 10.0
    """For the rest of a body whose request has been answered."""
    write_seconds: float = 300.0
    """In which a client may take nothing of its answer; infinite: for ever."""


WITH_A_ROUTER = Bounds(body_seconds=120.0, write_seconds=math.inf)
"""Of a worker: a body may wait for the disk of another, and an export for a whole start."""
