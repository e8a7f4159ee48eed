"""Points at which a test can have the operator die, as a crash would: between two writes that belong together.

Off unless FAULT_POINTS is set; then an object with the label `claude-code-api.io/fault: NAME` kills it at that point.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, TypeAlias

from claude_crds.resources import GROUP
from claude_crds.views import Object

FAULT_LABEL = f"{GROUP}/fault"

Point: TypeAlias = Literal[
    "claim-before-patch", "claim-after-patch",
    "start-before-status", "start-before-pod", "start-after-pod",
    "ready-before-status", "ready-after-status",
    "suspend-before-drain", "suspend-after-drain", "suspend-after-delete",
]  # fmt: skip


class Faults:
    """Called at every point; does nothing in production."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled

    def at(self, point: Point, about: Object | None) -> None:
        """Die here, if the object asks for it."""
        if self._enabled and about is not None and about.metadata.labels.get(FAULT_LABEL) == point:
            # A pod's process 1 cannot SIGKILL itself; this is as sudden.
            os._exit(128 + signal.SIGKILL)
