"""The real process over a fake API server: `python -m claude_router.cluster`, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from crds.fake_api import FakeApi
from router.cluster.harness import KEY, World, kubeconfig, session, token
from router.fakes import DONE, PATIENCE, Exchange, FakeWorker, frame, streams
from router.harness import CHAT, body, error_frames, error_of

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[3]
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("crds", "operator", "router", "worker-image"))


def environment(folder: Path, server: str, **extra: str) -> dict[str, str]:
    (folder / "kubeconfig").write_text(kubeconfig(server))
    (folder / "worker-key").write_bytes(KEY + b"\n")
    own = {
        "KUBECONFIG": str(folder / "kubeconfig"), "WORKER_KEY_FILE": str(folder / "worker-key"), "PORT": "0",
        "HOST": "127.0.0.1", "PYTHONPATH": SOURCES, "DRAIN_DELAY_MS": "300", **extra,
    }  # fmt: skip
    return {"PATH": os.environ["PATH"], **own}


@dataclass
class Process:
    """A running router."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    url: str = ""

    async def read(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            if found := re.search(r"INFO serving .*port=(\d+)", self.lines[-1]):
                self.url = f"http://127.0.0.1:{found[1]}"
            self._bell.set()

    def __post_init__(self) -> None:
        self._bell = asyncio.Event()
        self.reading = asyncio.create_task(self.read())

    async def says(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not any(text in line for line in self.lines):
                self._bell.clear()
                await self._bell.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            await self.reading
            return await self.process.wait()


@contextlib.asynccontextmanager
async def process(folder: Path, server: str, **extra: str) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    command = (sys.executable, "-P", "-m", "claude_router.cluster")
    started = await asyncio.create_subprocess_exec(
        *command, env=environment(folder, server, **extra), stderr=asyncio.subprocess.PIPE
    )
    running = Process(started)
    try:
        await running.says("Application startup complete")
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE, trust_env=False) as client:
            yield running, client
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await running.status()


async def answered(ask: Callable[[], Awaitable[httpx.Response]], status: int, text: str = "") -> httpx.Response:
    """The first answer that is like this: of another process's state nothing else tells."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await ask()
            if answer.status_code == status and text in answer.text:
                return answer
            await asyncio.sleep(0.02)


async def healthy(client: httpx.AsyncClient) -> dict[str, Any]:
    """Its health, once it is ready; a probe would ask as often."""
    answer = await answered(lambda: client.get("/health"), 200, '"status":"ok"')
    found: dict[str, Any] = answer.json()
    return found


async def test_a_turn_from_the_client_to_the_worker(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "alice").write_text("key-of-alice\n")
    async with FakeApi() as fake, FakeWorker(streams(frame("hello"), DONE)) as worker:
        w = World(fake)
        w.pool({"size": 4, "models": {"big": "opus"}})
        async with process(tmp_path, fake.server, API_KEYS_DIR=str(tmp_path / "keys")) as (running, client):
            assert (await healthy(client))["pool"]["size"] == 4
            assert (await client.post(CHAT, json=body())).status_code == 401
            headers = {"authorization": "Bearer key-of-alice", "x-conversation-id": "talk"}
            request = asyncio.create_task(client.post(CHAT, json=body(stream=True, model="big"), headers=headers))
            await w.created("talk")
            w.write("talk", "Ready", podName="pod-1", endpoint=worker.endpoint)
            answer = await request
            assert (answer.status_code, answer.content) == (200, frame("hello") + DONE)
            assert worker.received[0].headers["authorization"] == f"Bearer {token('pod-1')}"
            listed = (await client.get("/conversations", headers=headers)).json()
            assert [c["id"] for c in listed["data"]] == ["talk"]
            models = (await client.get("/v1/models", headers=headers)).json()
            assert [m["id"] for m in models["data"]] == [
                "claude-code",
                "claude-code-tools",
                "claude-code-client",
                "big",
            ]
            # The API server goes away: what lives goes on, and nobody restarts anything for it.
            await fake.stop()
            answer = await client.post(CHAT, json=body(stream=True), headers=headers)
            assert (answer.status_code, answer.content) == (200, frame("hello") + DONE)
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/health")).status_code == 200
            gone = await client.delete("/conversations/talk", headers=headers)
            assert (gone.status_code, error_of(gone)["code"]) == (503, "cluster_unreachable")
            running.stop()
            assert await running.status() == 0


async def test_it_is_alive_but_not_ready_before_it_knows_the_cluster(tmp_path: Path) -> None:
    async with FakeApi() as fake:
        World(fake).pool()
        await fake.stop()
        async with process(tmp_path, fake.server) as (_, client):
            assert (await client.get("/livez")).status_code == 200
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "failing")
            await fake.start()
            assert (await healthy(client))["status"] == "ok"


@dataclass
class Held:
    """A worker's script: each turn runs until it is released."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(frame("one"))
        self.begun.set()
        await self.release.wait()
        await exchange.end(DONE)


@contextlib.asynccontextmanager
async def busy(folder: Path, **extra: str) -> AsyncIterator[tuple[Process, httpx.AsyncClient, Held, asyncio.Task[Any]]]:
    """A router that runs a turn."""
    held = Held()
    async with FakeApi() as fake, FakeWorker(held) as worker:
        w = World(fake)
        w.pool()
        w.add(session("talk", "Ready"))
        w.write("talk", "Ready", podName="pod-1", endpoint=worker.endpoint)
        async with process(folder, fake.server, **extra) as (running, client):
            await healthy(client)
            headers = {"x-conversation-id": "talk"}
            turn = asyncio.create_task(client.post(CHAT, json=body(stream=True), headers=headers))
            await held.begun.wait()
            yield running, client, held, turn


async def test_a_stop_lets_running_turns_end_and_new_ones_go_elsewhere(tmp_path: Path) -> None:
    async with busy(tmp_path, DRAIN_DELAY_MS="500") as (running, client, held, turn):
        running.stop()
        await running.says("no more requests")
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert health.headers["connection"] == "close"
        # Endpoints have not gone yet: this turn is taken (and refused for what is wrong with it).
        late = await client.post(CHAT, json=body(model="nope"))
        assert late.status_code == 404
        refused = await answered(lambda: client.post(CHAT, json=body(model="nope")), 503)
        assert error_of(refused)["code"] == "server_shutting_down"
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        assert not turn.done()
        held.release.set()
        answer = await turn
        assert (answer.status_code, answer.content) == (200, frame("one") + DONE)
        assert await running.status() == 0


async def test_after_the_grace_a_turn_is_told_that_the_server_ends(tmp_path: Path) -> None:
    async with busy(tmp_path, DRAIN_DELAY_MS="0", SHUTDOWN_GRACE_MS="100") as (running, _, _, turn):
        running.stop()
        answer = await turn
        assert answer.content.startswith(frame("one"))
        assert error_frames(answer.content)["code"] == "server_shutting_down"
        assert await running.status() == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with busy(tmp_path, DRAIN_DELAY_MS="60000", SHUTDOWN_GRACE_MS="60000") as (running, _, _, turn):
        running.stop()
        await running.says("no more requests")
        running.stop()
        answer = await turn
        assert error_frames(answer.content)["code"] == "server_shutting_down"
        assert await running.status() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("extra", "status", "said"),
    [
        ({"WORKER_KEY_FILE": ""}, 2, "WORKER_KEY_FILE: must name the file"),
        ({"WORKER_KEY_FILE": "/nowhere/key"}, 2, "the workers' key cannot be read"),
        ({"PORT": "many"}, 2, "PORT='many': must be a whole number"),
        ({"KUBECONFIG": "/nowhere/kubeconfig"}, 1, "the kubeconfig /nowhere/kubeconfig cannot be used"),
        ({"HOST": "192.0.2.1", "PORT": "1"}, 1, "cannot listen on 192.0.2.1:1"),
    ],
)
async def test_what_it_cannot_run_with(tmp_path: Path, extra: dict[str, str], status: int, said: str) -> None:
    env = {**environment(tmp_path, "http://127.0.0.1:9"), **extra}
    command = (sys.executable, "-P", "-m", "claude_router.cluster")
    ended = await asyncio.create_subprocess_exec(*command, env=env, stderr=asyncio.subprocess.PIPE)
    _, errors = await ended.communicate()
    assert (ended.returncode, said in errors.decode()) == (status, True), errors.decode()


async def test_what_it_does_not_load() -> None:
    """In a pod neither kopf nor the official client may cost it memory and time."""
    code = "import sys, claude_router.cluster.serve; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", code, env={"PYTHONPATH": SOURCES}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await done.communicate()
    assert done.returncode == 0
    assert not {"kopf", "kubernetes", "claude_agent_sdk", "claude_operator"} & set(out.decode().split())


async def test_a_request_that_waits_when_the_stop_comes_is_served_within_the_grace(tmp_path: Path) -> None:
    async with FakeApi() as fake, FakeWorker(streams(frame("hello"), DONE)) as worker:
        w = World(fake)
        w.pool()
        async with process(tmp_path, fake.server, DRAIN_DELAY_MS="0") as (running, client):
            await healthy(client)
            headers = {"x-conversation-id": "talk"}
            request = asyncio.create_task(client.post(CHAT, json=body(stream=True), headers=headers))
            await w.created("talk")
            running.stop()
            await running.says("no more requests")
            w.write("talk", "Ready", podName="pod-1", endpoint=worker.endpoint)
            assert (await request).content == frame("hello") + DONE
            assert await running.status() == 0
