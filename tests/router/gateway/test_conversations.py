"""What is written into ClaudeSessions' statuses, and when."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable

import msgspec
import pytest

from claude_crds.api import Api
from claude_crds.errors import Conflict, NotFound, Status, Unavailable
from claude_crds.resources import SESSIONS, timestamp
from claude_crds.settings import load
from claude_crds.views import ClaudeSession
from claude_router.cluster.shown import session_view
from claude_router.gateway.callers import Caller
from claude_router.gateway.cluster import Cluster, GatewayApi
from claude_router.gateway.conversations import BATCH, WRITE_SECONDS, SessionStatuses
from claude_router.gateway.scan import Counted
from claude_router.gateway.settings import GatewaySettings
from claude_router.gateway.usage import Used
from crds.fake_api import PATIENCE, FakeApi, Json

BEGAN = 1_900_000_000.0


class World:
    """Sessions, what the ledger says of earlier, a clock, and what was written (and so is seen in the sessions)."""

    def __init__(self) -> None:
        self.now = BEGAN + 100
        self.sessions: dict[str, ClaudeSession] = {}
        self.asked: list[tuple[str, float]] = []
        self.earlier = Used("a", 3, 0, 0, 100, 10, 5, 0, 1.0)
        self.written: list[tuple[str, Json]] = []
        self.bell = asyncio.Event()
        self.fails: Exception | None = None
        self.meanwhile: Callable[[], None] | None = None
        self.statuses = SessionStatuses(self.sessions.get, self.ask, self.write, clock=lambda: self.now)
        self.make("a")

    def make(self, name: str, uid: str = "u", **status: Json) -> None:
        meta = {"name": name, "uid": uid, "creationTimestamp": timestamp(BEGAN)}
        body = {"metadata": meta, "spec": {"conversationID": name}, "status": status}
        self.sessions[name] = SESSIONS.decoder.decode(msgspec.json.encode(body))

    async def ask(self, name: str, since: float) -> Used:
        self.asked.append((name, since))
        if isinstance(self.fails, sqlite3.Error):
            raise self.fails
        return self.earlier

    async def write(self, session: ClaudeSession, status: Json) -> None:
        if self.fails is not None:
            raise self.fails
        name = session.name
        if self.meanwhile is not None:
            self.meanwhile()
        if self.sessions[name].metadata.uid != session.metadata.uid:
            raise Conflict(Status("another"), "PATCH")
        self.written.append((name, status["usage"]))
        self.make(name, self.sessions[name].metadata.uid, **status)
        self.bell.set()

    def spend(self, usd: float, name: str = "a", uid: str = "u") -> None:
        self.statuses.add(Caller(name, uid=uid), Counted(100, 10, 5), usd)

    async def settle(self) -> list[tuple[str, Json]]:
        self.written = []
        for name in self.statuses.due(self.now)[0]:
            await self.statuses._put(name)
        return self.written


@pytest.mark.asyncio
async def test_what_was_used_before_and_since_is_written_seldom() -> None:
    world = World()
    assert await world.settle() == []
    world.spend(0.5)
    usage = {"inputTokens": 205, "outputTokens": 20, "cachedTokens": 10, "costUSD": 1.5}
    assert await world.settle() == [("a", usage)]
    assert world.asked == [("a", BEGAN)]
    world.spend(0.25)
    world.spend(0.25)
    assert await world.settle() == []
    assert world.statuses.due(world.now) == ([], world.now + WRITE_SECONDS)
    world.now += WRITE_SECONDS
    assert [used["costUSD"] for _, used in await world.settle()] == [2.0]
    world.now += WRITE_SECONDS
    assert await world.settle() == []
    assert len(world.asked) == 1
    assert session_view(world.sessions["a"], busy=False).usage.cost_usd == 2.0


@pytest.mark.asyncio
async def test_what_was_told_of_before_there_was_a_gateway_is_never_told_less() -> None:
    world = World()
    world.earlier = Used("a")
    world.make("a", usage={"inputTokens": 1000, "outputTokens": 100, "cachedTokens": 50, "costUSD": 12.5})
    world.spend(0.5)
    usage = {"inputTokens": 1105, "outputTokens": 110, "cachedTokens": 55, "costUSD": 13.0}
    assert await world.settle() == [("a", usage)]
    world.statuses = SessionStatuses(world.sessions.get, world.ask, world.write, clock=lambda: world.now)
    world.earlier = Used("a", 1, 0, 0, 105, 10, 5, 0, 0.5)
    world.statuses.look_again(["a"])
    assert await world.settle() == [], "a gateway that starts anew adds nothing"


@pytest.mark.asyncio
async def test_a_namesake_that_begins_during_a_write_gets_its_own_figures_only() -> None:
    world = World()
    world.spend(9.0)

    def replaced() -> None:
        world.meanwhile = None
        world.statuses.listener("deleted", world.sessions["a"], None)
        world.make("a", "another")
        world.spend(0.125, uid="another")

    world.meanwhile = replaced
    assert await world.settle() == []
    world.earlier = Used("a")
    assert [used["costUSD"] for _, used in await world.settle()] == [0.125]


@pytest.mark.asyncio
async def test_a_namesake_begins_with_nothing() -> None:
    world = World()
    world.spend(0.5)
    await world.settle()
    world.statuses.listener("deleted", world.sessions["a"], None)
    world.make("a", "another")
    world.spend(9.0)  # the end of a request of the one that is gone
    assert await world.settle() == []
    world.earlier = Used("a")
    world.spend(0.125, uid="another")
    world.now += WRITE_SECONDS
    assert [used["costUSD"] for _, used in await world.settle()] == [0.125]
    del world.sessions["a"]
    world.spend(1.0, uid="another")
    world.now += WRITE_SECONDS
    assert await world.settle() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [Unavailable(Status("away"), "PATCH"), sqlite3.OperationalError("locked")])
async def test_what_fails_is_tried_again(failure: Exception) -> None:
    world = World()
    world.spend(0.5)
    world.fails = failure
    assert await world.settle() == []
    world.fails = None
    assert await world.settle() == []
    world.now += WRITE_SECONDS
    assert len(await world.settle()) == 1


@pytest.mark.asyncio
async def test_one_that_is_gone_is_forgotten() -> None:
    world = World()
    world.spend(0.5)
    world.fails = NotFound(Status("gone"), "PATCH")
    await world.settle()
    world.fails = None
    world.now += WRITE_SECONDS
    assert world.statuses.due(world.now) == ([], None)


@pytest.mark.asyncio
async def test_what_an_earlier_process_did_not_write_is_and_what_is_right_is_left() -> None:
    world = World()
    world.make("b", usage={"inputTokens": 100, "outputTokens": 10, "cachedTokens": 5, "costUSD": 1.0})
    world.statuses.look_again(["a", "b", "gone"])
    assert [name for name, _ in await world.settle()] == ["a"]
    assert world.statuses.due(world.now + WRITE_SECONDS) == ([], None)


@pytest.mark.asyncio
async def test_they_are_written_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_router.gateway.conversations.PAUSE_SECONDS", 0.0)
    world = World()
    names = [f"s{n}" for n in range(2 * BATCH + 1)]
    for name in names:
        world.make(name)
        world.spend(1.0, name)
    assert len(world.statuses.due(world.now)[0]) == BATCH
    task = asyncio.create_task(world.statuses.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while len(world.written) < len(names):
                world.bell.clear()
                await world.bell.wait()
            world.spend(1.0, "a")
            while world.written[-1][0] != "a":
                world.bell.clear()
                await world.bell.wait()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert sorted(name for name, _ in world.written[:-1]) == sorted(names)


@pytest.mark.asyncio
async def test_it_is_applied_beside_what_the_operator_writes() -> None:
    async with FakeApi() as fake, GatewayApi(fake.loader) as api, Api(fake.loader) as reader:
        fake.put(SESSIONS.path("ns"), {
            "metadata": {"name": "a"}, "spec": {"conversationID": "a"}, "status": {"phase": "Ready", "turns": 3},
        })  # fmt: skip
        assert isinstance(api, GatewayApi)
        session = await reader.get(SESSIONS, "ns", "a")
        await Cluster(api, "ns", load(GatewaySettings, {})).write_session(session, {"usage": {"costUSD": 1.5}})
        session = await reader.get(SESSIONS, "ns", "a")
        request = fake.requests[1]
        assert (request.method, request.path) == ("PATCH", SESSIONS.path("ns", "a", "status"))
        assert dict(request.query) == {"fieldManager": "gateway", "force": "true"}
        assert (session.status.phase, session.status.turns, session.status.usage.cost_usd) == ("Ready", 3, 1.5)
