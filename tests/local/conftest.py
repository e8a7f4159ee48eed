"""The scripted model is shared by all tests of a run: it keeps no conversation state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.harness import Model, scripted_model


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with scripted_model() as running:
        yield running
