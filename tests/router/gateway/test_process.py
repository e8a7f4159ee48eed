"""The real process: `python -m claude_router.gateway`, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from claude_crds.resources import PODS, SESSIONS, TEAMS
from claude_crds.tokens import usage_token
from claude_router.gateway.usage import used
from crds.fake_api import FakeApi
from router.cluster.harness import kubeconfig
from router.cluster.test_process import SOURCES
from router.fakes import PATIENCE, Exchange, FakeWorker, streams
from router.gateway.harness import AUTH, JSON, MESSAGES, REAL_KEY, TOKEN, body, delta, finish, start, until
from router.gateway.issuer import SigningApi
from router.gateway.test_workers import pod, session

pytestmark = pytest.mark.asyncio

ANSWER = start() + delta("hello") + finish()
KEY = b"k" * 32


@dataclass
class Process:
    """A running gateway."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    url: str = ""
    internal: str = ""

    async def read(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            if found := re.search(r"INFO serving port=(\d+) internal_port=(\d+)", self.lines[-1]):
                self.url, self.internal = (f"http://127.0.0.1:{port}" for port in found.groups())

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)


@contextlib.asynccontextmanager
async def process(folder: Path, model: str, **extra: str) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    (folder / "key").write_bytes(KEY)
    (folder / "upstream").mkdir(exist_ok=True)
    (folder / "upstream" / "ANTHROPIC_API_KEY").write_text(REAL_KEY)
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": SOURCES, "HOST": "127.0.0.1", "PORT": "0", "INTERNAL_PORT": "0",
        "UPSTREAM_DIR": str(folder / "upstream"), "UPSTREAM_URL": model, "WORKER_KEY_FILE": str(folder / "key"),
        "LEDGER_FILE": str(folder / "ledger.sqlite3"), **extra,
    }  # fmt: skip
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "claude_router.gateway", env=env, stderr=asyncio.subprocess.PIPE
    )
    running = Process(started)
    reading = asyncio.create_task(running.read())
    try:
        await until(lambda: bool(running.url) or started.returncode is not None)
        assert running.url, running.lines
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE, trust_env=False) as client:
            yield running, client
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()
        await reading
        assert REAL_KEY not in "".join(running.lines)
        assert TOKEN not in "".join(running.lines)


def static(folder: Path) -> dict[str, str]:
    """One worker's credential, for a gateway without a cluster."""
    caller = {"session": "conv-a", "team": "default", "pool": "default", "pod": "pod-1"}
    path = folder / "credentials.json"
    path.write_text(json.dumps({hashlib.sha256(TOKEN.encode()).hexdigest(): caller}))
    return {"CREDENTIALS_FILE": str(path)}


async def test_a_request_and_its_usage(tmp_path: Path) -> None:
    async with (
        FakeWorker(streams(ANSWER)) as model,
        process(tmp_path, model.endpoint, **static(tmp_path)) as (running, client),
    ):
        answer = await client.post(MESSAGES, content=body(), headers=AUTH | JSON)
        assert answer.content == ANSWER
        assert model.received[0].headers["x-api-key"] == REAL_KEY
        bearer = {"authorization": f"Bearer {usage_token(KEY)}"}

        async def usage(query: str, headers: dict[str, str]) -> httpx.Response:
            return await client.get(f"{running.internal}/usage?{query}", headers=headers)

        async with asyncio.timeout(PATIENCE):
            while True:
                found = (await usage("by=session", bearer)).json()
                if found["data"] and not found["data"][0]["running"]:
                    break
        assert found["by"] == "session"
        (row,) = found["data"]
        assert (row["key"], row["requests"], row["unpriced"], row["output_tokens"]) == ("conv-a", 1, 0, 40)
        assert row["cost_usd"] == pytest.approx((10 * 5 + 40 * 25) / 1e6)
        assert (await usage("by=day&until=2001-01-01", bearer)).json()["data"] == []
        assert len((await usage("by=day&since=2001-01-01T00:00:00Z&team=default", bearer)).json()["data"]) == 1
        assert [(await usage(q, bearer)).status_code for q in ("by=hour", "since=then", "until=1e999")] == [
            400,
            400,
            400,
        ]
        for headers in ({}, AUTH, {"authorization": f"Basic {usage_token(KEY)}"}):
            assert (await usage("by=day", headers)).status_code == 401
        assert (await client.get("/usage", headers=bearer)).status_code == 404  # not for workers
        assert (await client.get(f"{running.internal}/readyz")).text == "ok"
        assert (await client.get(f"{running.internal}/livez")).status_code == 200
        metrics = (await client.get(f"{running.internal}/metrics")).text
        assert 'claude_gateway_requests_total{route="messages",status="200"} 1.0' in metrics


async def test_a_turn_that_runs_may_end_and_is_written(tmp_path: Path) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(start())
        begun.set()
        await gate.wait()
        await exchange.end(finish())

    async with FakeWorker(script) as model, process(tmp_path, model.endpoint, **static(tmp_path)) as (running, client):
        asked = asyncio.create_task(client.post(MESSAGES, content=body(), headers=AUTH | JSON))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        running.stop()
        await until(lambda: any("stopping" in line for line in running.lines))
        gate.set()
        assert (await asked).content == start() + finish()
        async with asyncio.timeout(PATIENCE):
            assert await running.process.wait() == 0
    assert [(u.requests, u.output_tokens) for u in used(tmp_path / "ledger.sqlite3", "team")] == [(1, 40)]


async def test_a_second_signal_ends_it_at_once_and_what_has_passed_is_written(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(start())
        begun.set()
        await exchange.left()

    async with FakeWorker(script) as model, process(tmp_path, model.endpoint, **static(tmp_path)) as (running, client):
        asked = asyncio.create_task(client.post(MESSAGES, content=body(), headers=AUTH | JSON))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
            running.stop()
            await until(lambda: any("stopping" in line for line in running.lines))
            running.stop()
            assert await running.process.wait() == 128 + signal.SIGTERM
        with pytest.raises(httpx.HTTPError):
            await asked
    assert [(u.requests, u.running, u.input_tokens) for u in used(tmp_path / "ledger.sqlite3", "team")] == [(1, 0, 10)]


async def test_killed_in_mid_stream_it_knows_afterwards_what_it_has_lost(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(start())
        begun.set()
        await exchange.left()

    async with FakeWorker(script) as model:
        async with process(tmp_path, model.endpoint, **static(tmp_path)) as (running, client):
            asked = asyncio.create_task(client.post(MESSAGES, content=body(), headers=AUTH | JSON))
            async with asyncio.timeout(PATIENCE):
                await begun.wait()
            await until(lambda: sum(u.running for u in used(tmp_path / "ledger.sqlite3", "team")) == 1)
            running.stop(signal.SIGKILL)
            with pytest.raises(httpx.HTTPError):
                await asked
        async with process(tmp_path, model.endpoint, **static(tmp_path)) as (running, _):
            assert any("1 requests were running when the last gateway died" in line for line in running.lines)
    (sums,) = used(tmp_path / "ledger.sqlite3", "team")
    assert (sums.requests, sums.running, sums.unpriced) == (1, 0, 1)


async def test_on_a_cluster_with_a_pods_token_and_the_teams_status(tmp_path: Path) -> None:
    fake = SigningApi()
    fake.put(PODS.path("ns"), pod())
    fake.put(SESSIONS.path("ns"), session())
    team = {"metadata": {"name": "red"}, "spec": {"budget": {"usd": 0.001, "period": "month"}}}
    fake.put(TEAMS.path("ns"), team)
    async with fake, FakeWorker(streams(ANSWER)) as model:
        (tmp_path / "kubeconfig").write_text(kubeconfig(fake.server))
        extra = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "NAMESPACE": "ns"}
        async with process(tmp_path, model.endpoint, **extra) as (running, client):
            async with asyncio.timeout(PATIENCE):
                while (await client.get(f"{running.internal}/readyz")).status_code != 200:
                    pass
            token = {"authorization": f"Bearer {fake.issuer.token()}"}
            assert (await client.post(MESSAGES, content=body(), headers=token | JSON)).content == ANSWER
            await until(lambda: _exceeded(fake) == "True")
            fake.remove(PODS.path("ns"), "pod-1")
            async with asyncio.timeout(PATIENCE):
                while (await client.post(MESSAGES, content=body(), headers=token | JSON)).status_code != 401:
                    pass


def _exceeded(fake: FakeApi) -> str:
    conditions = fake._objects[TEAMS.path("ns")]["red"].get("status", {}).get("conditions", [])
    return next((c["status"] for c in conditions if c["type"] == "BudgetExceeded"), "")


@pytest.mark.parametrize(("extra", "status", "told"), [
    ({"UPSTREAM_KIND": "azure"}, 2, "UPSTREAM_KIND"), ({"UPSTREAM_MODELS": "opus=a=b"}, 2, "UPSTREAM_MODELS"),
    ({"UPSTREAM_URL": "ftp://x"}, 2, "UPSTREAM_URL"), ({"PRICES_FILE": "/none"}, 2, "PRICES_FILE"),
    ({"WORKER_KEY_FILE": "/none"}, 2, "key"), ({"CREDENTIALS_FILE": "/none"}, 2, "CREDENTIALS_FILE"),
    ({"LEDGER_FILE": "/proc/none/ledger"}, 1, "cannot be used"),
])  # fmt: skip
async def test_what_it_cannot_do_it_says(tmp_path: Path, extra: dict[str, str], status: int, told: str) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCES, "HOST": "127.0.0.1", "PORT": "0", "INTERNAL_PORT": "0",
           "LEDGER_FILE": str(tmp_path / "l"), **extra}  # fmt: skip
    command = (sys.executable, "-P", "-m", "claude_router.gateway")
    started = await asyncio.create_subprocess_exec(*command, env=env, stderr=asyncio.subprocess.PIPE)
    _, errors = await asyncio.wait_for(started.communicate(), PATIENCE)
    assert started.returncode == status
    assert told in errors.decode()
