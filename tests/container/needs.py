"""What a machine may lack: a developer's skips with the reason, CI's fails."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*tools: str, root: bool = False) -> None:
    """Go on only where `tools` are on the PATH, and, if `root`, this process is root's."""
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    lacking += ["root"] if root and os.geteuid() != 0 else []
    if lacking and os.environ.get("CI"):
        pytest.fail(f"needed here: {', '.join(lacking)}")
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
