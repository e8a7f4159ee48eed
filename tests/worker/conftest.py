"""Workers around a stand-in for the CLI; see `fake`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from worker.fake import Worker, bind_volume, make_worker, write_cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_cli(tmp_path)
    monkeypatch.setenv("CLAUDE_CLI", str(path))
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
async def fresh(cli: Path, volume: Path) -> AsyncIterator[Worker]:
    """A worker that no conversation was given to; not booted."""
    worker = make_worker(volume)
    yield worker
    await worker.conversation.engine.close()


@pytest.fixture
async def resumed(cli: Path, volume: Path) -> AsyncIterator[Worker]:
    """A worker on the volume of an earlier conversation; not booted."""
    bind_volume(volume)
    worker = make_worker(volume)
    yield worker
    await worker.conversation.engine.close()
