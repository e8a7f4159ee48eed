"""Teams whose pools differ: each request has the models and the queue's timeout of its own team's pool."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from claude_router.app import create_app
from claude_router.sessions import PoolExhausted
from claude_router.settings import PoolSettings, RouterSettings
from claude_worker.dialect import DIALECTS
from router.desk import Desk, team
from router.fakes import DONE, Exchange, FakeSessions, FakeWorker, frame, streams
from router.harness import CHAT, Endpoint, body, endpoint, error_of
from router.test_isolation import worker

pytestmark = pytest.mark.asyncio

OWN_NAMES = ["claude-code", "claude-code-tools", "claude-code-client"]
POOLS = {
    "red": RouterSettings(models={"claude-code-opus": "opus"}, queue_timeout=600.0),
    "blue": RouterSettings(models={"claude-code-sonnet": "sonnet"}, queue_timeout=7.0),
    "picky": RouterSettings(models={"big": "opus", "small": "haiku"}),
}


class Pools(RouterSettings):
    """Every team has a pool of its own; the others have what no team has."""

    def pool_of(self, tenant: str) -> PoolSettings:
        return POOLS.get(tenant, self)


@dataclass
class Offices:
    """The router, and a key of each team; `root` is an admin."""

    router: Endpoint
    keys: dict[str, str]

    async def ask(self, who: str, method: str, path: str, content: Any = None, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["authorization"] = f"Bearer {self.keys[who]}"
        return await self.router.client.request(method, path, json=content, headers=sent)

    async def names(self, who: str, **headers: str) -> list[str]:
        return [m["id"] for m in (await self.ask(who, "GET", "/v1/models", **headers)).json()["data"]]


@contextlib.asynccontextmanager
async def offices(*leases: str | Exception) -> AsyncIterator[Offices]:
    teams = (team("red"), team("blue"), team("picky", models=["big", "claude-code-opus"]), team("root", admin=True))
    desk = Desk(*teams, static=("key-of-nobodys",))
    keys = {each.name: desk.key(each.name) for each in teams} | {"nobody": "key-of-nobodys"}
    sessions = FakeSessions()
    for tenant in ("red", "blue"):
        sessions.add("c", tenant)
    app = create_app(Pools(models={}, queue_timeout=30.0), sessions, version="1", access=desk.access)
    async with endpoint(*leases, sessions=sessions, app=app) as router:
        yield Offices(router, keys)


async def test_the_names_that_are_listed() -> None:
    async with offices("http://nowhere") as o:
        assert await o.names("red") == [*OWN_NAMES, "claude-code-opus"]
        assert await o.names("blue") == [*OWN_NAMES, "claude-code-sonnet"]
        assert await o.names("nobody") == await o.names("root") == OWN_NAMES
        assert await o.names("root", x_claude_team="blue") == await o.names("blue")
        assert (await o.ask("red", "GET", "/v1/models/claude-code-opus")).status_code == 200
        assert (await o.ask("blue", "GET", "/v1/models/claude-code-opus")).status_code == 404


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
async def test_the_names_that_may_be_asked_for(dialect: Any) -> None:
    async with FakeWorker(worker) as there, offices(there.endpoint) as o:
        asked = {"input": "x", "max_tokens": 9, **body(model="claude-code-opus-tools")}
        assert (await o.ask("red", "POST", dialect.path, asked)).status_code == 200
        assert (await o.ask("root", "POST", dialect.path, asked, x_claude_team="red")).status_code == 200
        for who in ("blue", "nobody", "root"):
            assert (await o.ask(who, "POST", dialect.path, asked)).status_code == 404


async def test_of_its_pools_names_a_team_may_ask_for_its_own() -> None:
    async with FakeWorker(worker) as there, offices(there.endpoint) as o:
        assert await o.names("picky") == ["big"]
        for model, status in (("big", 200), ("big-tools", 200), ("small", 403), ("claude-code-opus", 404)):
            assert (await o.ask("picky", "POST", CHAT, body(model=model))).status_code == status, model


async def test_how_long_a_request_may_wait() -> None:
    async with FakeWorker(worker) as there, offices(there.endpoint) as o:
        for who, seconds in (("red", 600.0), ("blue", 7.0), ("nobody", 30.0)):
            o.router.sessions.acquired.clear()
            before = asyncio.get_running_loop().time()
            assert (await o.ask(who, "POST", CHAT, body())).status_code == 200
            assert (await o.ask(who, "PUT", "/conversations/c/files/a.txt", "text")).status_code == 200
            after = asyncio.get_running_loop().time()
            deadlines = [deadline for _, deadline in o.router.sessions.acquired]
            assert len(deadlines) == 2
            assert all(before + seconds <= deadline <= after + seconds for deadline in deadlines)


async def test_how_long_it_has_waited_in_vain() -> None:
    async with offices(PoolExhausted("all are busy")) as o:
        for who, seconds in (("red", 600), ("blue", 7)):
            for method, path, content in (("POST", CHAT, body()), ("GET", "/conversations/c/messages", None)):
                refused = await o.ask(who, method, path, content)
                assert (refused.status_code, error_of(refused)["code"]) == (503, "pool_exhausted")
                assert f"within {seconds} s" in error_of(refused)["message"]


async def test_how_long_it_may_wait_after_its_worker_was_lost() -> None:
    async def cut(exchange: Exchange) -> None:
        exchange.cut()

    async with (
        FakeWorker(cut) as lost,
        FakeWorker(streams(frame("a"), DONE)) as found,
        offices(lost.endpoint, found.endpoint) as o,
    ):
        assert (await o.ask("red", "POST", CHAT, body(stream=True))).status_code == 200
    (_, first), (_, second) = o.router.sessions.acquired
    assert second > first, "as long again, by the same pool"


@pytest.mark.parametrize(("method", "path"), [("GET", "/conversations/c/messages"), ("POST", "/conversations/c/fork")])
async def test_how_long_a_worker_that_is_at_work_is_waited_for(
    method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    monkeypatch.setitem(POOLS, "blue", RouterSettings(queue_timeout=0.1))
    async with FakeWorker(busy) as there, offices(there.endpoint) as o:
        answer = await asyncio.wait_for(o.ask("blue", method, path), 15.0)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "conversation_busy")
