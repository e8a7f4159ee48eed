"""What tests of the chart share: helm and kubectl on the cluster that is up."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from claude_crds.access import from_kubeconfig
from claude_crds.api import Api
from claude_crds.install import install, read
from cluster.chart import ROOT, Commands, provided
from cluster.node import tools


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    kubeconfig = provided()
    return Commands(tools.find("helm"), tools.find("kubectl"), kubeconfig, tmp_path_factory.mktemp("kubectl"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Helm alone, for what needs no cluster."""
    nowhere = tmp_path_factory.mktemp("helm")
    return Commands(tools.find("helm"), tools.path("kubectl"), nowhere / "kubeconfig", nowhere)


@pytest.fixture(scope="module")
def definitions(commands: Commands) -> None:
    """The resource definitions, as they are in this tree."""

    async def run() -> None:
        async with Api(lambda: from_kubeconfig(str(commands.kubeconfig))) as api:
            await install(api, read(ROOT / "crds"))

    asyncio.run(run())


@pytest.fixture(scope="module")
def namespace(commands: Commands) -> Iterator[str]:
    """One that refuses pods which do not meet the restricted standard."""
    name = f"chart-test-{uuid.uuid4().hex[:8]}"
    assert commands.kubectl("create", "namespace", name).returncode == 0
    label = "pod-security.kubernetes.io/enforce=restricted"
    assert commands.kubectl("label", "namespace", name, label).returncode == 0
    waited = commands.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=60s")
    assert waited.returncode == 0, waited.stderr
    yield name
    commands.kubectl("delete", "namespace", name, "--wait=false")
