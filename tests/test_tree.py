"""What must never be in the tree, and what must be the same in two places."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_lock_files_pin_with_hashes_and_name_no_host() -> None:
    locks = [*ROOT.glob("requirements*.lock"), *(ROOT / "tests").rglob("*.lock")]
    assert len(locks) >= 3
    for lock in locks:
        text = lock.read_text()
        pins = re.findall(r"^[a-z0-9][\w.\[\]-]*==\S+", text, flags=re.MULTILINE)
        assert len(pins) > 5
        assert text.count(" \\\n    --hash=sha256:") >= len(pins), lock
        assert "://" not in text, lock
    assert '"resolved"' not in (ROOT / "tests/npm/package-lock.json").read_text()


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    # Written in pieces, so that this file does not find itself.
    paths = re.compile(rb"(?:^|[^\w.])/(?:" + b"work|farm|ro" + rb"ot)/", flags=re.MULTILINE)
    found = [path for path in tracked() if paths.search(path.read_bytes())]
    assert found == []


def test_the_bundled_cli_is_pinned_to_the_version_that_the_tests_have_seen() -> None:
    assert "claude-agent-sdk==0.2.187" in (ROOT / "pyproject.toml").read_text()
    for name in ("requirements.lock", "requirements-local.lock"):
        assert "claude-agent-sdk==0.2.187 " in (ROOT / name).read_text()
