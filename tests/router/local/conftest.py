"""An opened store in an empty folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_router.local.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sessions-dir"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    opened = Store.open(root)
    yield opened
    opened.close()
