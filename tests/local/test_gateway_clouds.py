"""The real CLI behind the gateway, with Bedrock or Vertex AI behind that: fakes of both, which check all they get."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from claude_router.demo.app import create_app
from claude_router.gateway.cloud_models import BEDROCK_BETAS, VERTEX_BETAS
from local.gateways import TOKEN, Gateway, workers
from local.harness import chat, content, eventually, find_cli
from router.gateway.clouds import Cloud, FakeBedrock, FakeVertex
from router.gateway.harness import listening

SECRET = "aws-s3cret"


@contextmanager
def serving(cloud: Cloud) -> Iterator[str]:
    """Its address; it runs in a thread."""
    ready = threading.Event()
    told: list[str] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        end = asyncio.Event()
        loops.append((asyncio.get_running_loop(), end))
        async with listening(cloud) as port:
            told.append(f"http://127.0.0.1:{port}")
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(30)
    try:
        yield told[0]
    finally:
        loop, end = loops[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(params=["bedrock", "vertex"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Cloud, Gateway]]:
    kind: str = request.param
    cloud: Cloud
    if kind == "vertex":
        cloud = FakeVertex(create_app(), known_betas=VERTEX_BETAS)
    else:
        cloud = FakeBedrock(create_app(), secrets={"AKIDEXAMPLE": SECRET}, known_betas=BEDROCK_BETAS)
    folder = tmp_path / "gateway"
    folder.mkdir()
    with serving(cloud) as url:
        if isinstance(cloud, FakeVertex):
            files = {"GOOGLE_APPLICATION_CREDENTIALS": cloud.key_file(url), "CLOUD_ML_REGION": cloud.region}
        else:
            files = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "eu-west-1"}
        gateway = Gateway(folder, f"{url}/v1" if kind == "vertex" else url, files, kind)
        gateway.begin()
        try:
            yield cloud, gateway
        finally:
            gateway.end(signal.SIGKILL)


def test_turns_with_a_tool_pass_in_the_cloud_s_form_and_are_metered(
    behind: tuple[Cloud, Gateway], tmp_path: Path
) -> None:
    cloud, gateway = behind
    with workers(gateway, tmp_path) as launch:
        worker = launch()
        with worker.client() as client:
            assert content(chat(client, "::think hm\n::say hello big world")) == "hello big world"
            found = content(chat(client, "::bash printenv; cat /proc/self/environ\n::results"))
            assert "ANTHROPIC_BASE_URL" in found
            assert SECRET not in found
            assert "PRIVATE KEY" not in found
            assert json.loads(content(chat(client, "::recall")))[0] == "::think hm\n::say hello big world"
        eventually(lambda: gateway.sums().running == 0)
        assert SECRET.encode() not in Path(f"/proc/{find_cli(worker.process.pid)}/environ").read_bytes()
    sums = gateway.sums()
    assert sums.requests == len(cloud.seen) >= 4
    assert sums.unpriced == 0
    assert sums.cost_usd > 0
    for seen in cloud.seen:
        assert "model" not in seen.body or seen.model == "count-tokens"
        assert TOKEN not in str(seen.headers)
