"""One server for all clients, and what the model was asked by them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.clients.asked import Asked
from local.harness import Model
from local.server import Server, serving


@pytest.fixture(scope="session")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model, tmp_path_factory.mktemp("sessions"), POOL_SIZE="8") as running:
        yield running


@pytest.fixture
def asked(model: Model) -> Asked:
    return Asked(model)
