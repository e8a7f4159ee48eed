"""Programs in JavaScript with the npm packages that the tests install."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from local.harness import ROOT

_MODULES = ROOT / ".tools" / "npm" / "node_modules"


def run_node(folder: Path, program: str, *arguments: str) -> str:
    """Run a module from `folder`; returns what it printed."""
    node = shutil.which("node")
    assert node is not None, "Node.js is needed"
    assert (_MODULES / "ai").exists(), "the AI SDK is not installed: run `make test-local`"
    (folder / "node_modules").symlink_to(_MODULES)
    (folder / "program.mjs").write_text(program)
    done = subprocess.run([node, "program.mjs", *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
