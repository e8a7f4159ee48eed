"""The scripted model is shared by all tests of a run: it keeps no conversation state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.harness import Model, Running, scripted_model, start_worker


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with scripted_model() as running:
        yield running


@pytest.fixture
def launch(model: Model, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts workers on the test's volume, one after the other; what is left of them at the end is stopped."""
    started: list[Running] = []

    def start(**settings: str) -> Running:
        started.append(start_worker(model, tmp_path, **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop()
