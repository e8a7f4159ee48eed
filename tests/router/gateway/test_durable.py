"""What is written when: before the worker knows, whatever kills the gateway, and what the cluster shows of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from claude_crds.resources import EVENTS, PODS, SESSIONS, TEAMS
from claude_router.gateway import meter
from claude_router.gateway.ledger import Begun, Ended, Ledger, connect
from claude_router.gateway.retention import DAY_SECONDS
from claude_router.gateway.scan import Counted
from claude_router.gateway.usage import used
from crds.fake_api import PATIENCE, FakeApi, Json
from router.cluster.harness import kubeconfig
from router.fakes import Exchange, FakeWorker, streams
from router.gateway.harness import (
    AUTH,
    JSON,
    MESSAGES,
    REAL_KEY,
    body,
    delta,
    finish,
    gateway,
    request,
    start,
    until,
)
from router.gateway.issuer import SigningApi
from router.gateway.test_process import Process, process, static
from router.gateway.test_workers import pod, session

pytestmark = pytest.mark.asyncio

ANSWER = start() + delta("hello") + finish()


def ended(path: Path) -> list[bool]:
    """The requests in the file, as another process sees it: has each ended?"""
    with contextlib.closing(connect(path)) as db:
        return [bool(row[0]) for row in db.execute("SELECT ended IS NOT NULL FROM requests")]


class SlowDisk:
    """The ledger's writer waits at each transaction until it may go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.seconds = PATIENCE
        real = Ledger._written

        def written(ledger: Ledger, db: sqlite3.Connection, entries: Sequence[Any]) -> bool:
            self.free.wait(self.seconds)
            return real(ledger, db, entries)

        patch.setattr(Ledger, "_written", written)


async def test_a_worker_sees_of_an_answer_what_its_row_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    disk.seconds = 0.1
    seen = asyncio.Queue[None]()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for piece in (start() + delta("hello"), finish()):
            await exchange.chunk(piece)
            await seen.get()
        await exchange.end()

    async with gateway(tmp_path, script) as running:
        content = body()
        answer, _ = await running.connect(request(len(content)) + content.decode())
        await answer.head()
        for piece, row in ((start() + delta("hello"), [False]), (finish(), [True])):
            assert await answer.chunk() == piece
            assert ended(running.path) == row
            seen.put_nowait(None)


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_end_of_an_answer_waits_for_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    disk = SlowDisk(monkeypatch)
    disk.seconds = 0.1
    whole = b'{"type":"message","model":"claude-opus-5","usage":{"input_tokens":10,"output_tokens":40}}'

    async def one_piece(exchange: Exchange) -> None:
        await exchange.whole(200, JSON, whole)

    async with gateway(tmp_path, streams(ANSWER) if streamed else one_piece) as running:
        assert (await running.post()).content == (ANSWER if streamed else whole)
        assert ended(running.path) == [True]


async def test_it_waits_for_a_hanging_disk_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "SETTLE_SECONDS", 0.05)
    disk = SlowDisk(monkeypatch)
    async with gateway(tmp_path, streams(ANSWER)) as running:
        assert (await running.post()).content == ANSWER
        assert ended(running.path) == []
        disk.free.set()
        await running.ended()


async def test_a_kill_loses_nothing_that_had_ended_for_its_worker(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    async with FakeWorker(streams(ANSWER)) as model:
        for count in range(1, 6):
            async with process(tmp_path, model.endpoint, **static(tmp_path)) as (running, client):
                assert (await client.post(MESSAGES, content=body(), headers=AUTH | JSON)).content == ANSWER
                running.stop(signal.SIGKILL)
                await running.process.wait()
            (sums,) = used(path, "team")
            assert (sums.requests, sums.running, sums.unpriced, sums.output_tokens) == (count, 0, 0, 40 * count)


async def test_old_requests_go_and_the_days_sums_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path)
    ledger.open()
    for number, days in enumerate([40.0, 12.0, 11.0, 1.0]):
        when = time.time() - days * DAY_SECONDS
        ledger.begin(Begun(str(number), when, "red", "conv-a", "default", "m"))
        ledger.end(Ended(str(number), when, "m", "", 200, Counted(10, 2), 1.0, ""))
    ledger.close()
    async with (
        FakeWorker(streams(ANSWER)) as model,
        process(tmp_path, model.endpoint, LEDGER_RETENTION_DAYS="10", **static(tmp_path)),
    ):
        await until(lambda: [u.requests for u in used(path, "session")] == [1])
    assert [u.requests for u in used(path, "day")] == [1, 1, 1, 1]
    assert [(u.key, u.requests, u.cost_usd) for u in used(path, "team")] == [("red", 4, 4.0)]


# -- on a cluster ----------------------------------------------------------------------------------------------------


def seen(fake: FakeApi, path: str, name: str) -> Json:
    found: Json = fake._objects[path][name].get("status", {})
    return found


def events(fake: FakeApi) -> list[str]:
    return [e["reason"] for e in fake._objects.get(EVENTS.path("ns"), {}).values()]


def conditions(fake: FakeApi) -> dict[str, str]:
    return {c["type"]: c["status"] for c in seen(fake, TEAMS.path("ns"), "red").get("conditions", [])}


async def ready(running: Process, client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await client.get(f"{running.internal}/readyz")).status_code != 200:
            pass


async def test_figures_conditions_and_events_go_on_where_a_killed_gateway_left_them(tmp_path: Path) -> None:
    fake = SigningApi()
    fake.put(PODS.path("ns"), pod())
    fake.put(SESSIONS.path("ns"), session())
    budget = {"usd": 0.002, "period": "month", "warnPercent": 80}
    fake.put(TEAMS.path("ns"), {"metadata": {"name": "red"}, "spec": {"budget": budget}})
    price = (10 * 5 + 40 * 25) / 1e6  # of one answer; two of them spend the budget
    async with fake, FakeWorker(streams(ANSWER)) as model:
        (tmp_path / "kubeconfig").write_text(kubeconfig(fake.server))
        extra = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "NAMESPACE": "ns"}
        token = {"authorization": f"Bearer {fake.issuer.token()}"}

        def cost() -> float:
            return float(seen(fake, SESSIONS.path("ns"), "conv-a").get("usage", {}).get("costUSD", 0.0))

        async with process(tmp_path, model.endpoint, **extra) as (running, client):
            await ready(running, client)
            await client.post(MESSAGES, content=body(), headers=token | JSON)
            await until(lambda: cost() == pytest.approx(price))
            # Within the seconds in which nothing is written of it again.
            await client.post(MESSAGES, content=body(), headers=token | JSON)
            running.stop(signal.SIGKILL)
            await running.process.wait()
        async with process(tmp_path, model.endpoint, **extra) as (running, client):
            await until(lambda: cost() == pytest.approx(2 * price))
            await until(lambda: conditions(fake).get("BudgetExceeded") == "True")
            await until(lambda: "BudgetExceeded" in events(fake))
        async with process(tmp_path, model.endpoint, **extra, CLOCK_OFFSET_S=str(40 * 86_400)) as (running, client):
            await until(lambda: conditions(fake) == {"BudgetExceeded": "False", "BudgetNear": "False"})
            await until(lambda: "BudgetReset" in events(fake))
            await ready(running, client)
            await client.post(MESSAGES, content=body(), headers=token | JSON)
            await until(lambda: cost() == pytest.approx(3 * price))
    assert events(fake).count("BudgetExceeded") == events(fake).count("BudgetReset") == 1


async def test_without_a_shared_key_it_is_ready_for_teams_with_their_own(tmp_path: Path) -> None:
    teams = tmp_path / "teams"
    teams.mkdir()
    own = {**static(tmp_path), "UPSTREAM_DIR": "", "TEAM_UPSTREAMS_DIR": str(teams)}
    async with FakeWorker(streams(ANSWER)) as model:
        async with process(tmp_path, model.endpoint, **own) as (running, client):
            await ready(running, client)
            refused = await client.post(MESSAGES, content=body(), headers=AUTH | JSON)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_upstream_credential")
        assert REAL_KEY not in str(model.received)
        own["TEAM_UPSTREAMS_DIR"] = ""
        async with process(tmp_path, model.endpoint, **own) as (running, client):
            assert (await client.get(f"{running.internal}/readyz")).status_code == 503
