"""What is written into ClaudeTeams' statuses, and when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from claude_crds.errors import Status, Unavailable
from claude_crds.events import Notice
from claude_crds.resources import EVENTS, TEAMS
from claude_crds.settings import load
from claude_crds.views import ClaudeTeam
from claude_router.gateway.cluster import Cluster, GatewayApi
from claude_router.gateway.scan import Counted
from claude_router.gateway.settings import GatewaySettings
from claude_router.gateway.spending import Spending
from claude_router.gateway.status import WRITE_SECONDS, News, TeamStatuses
from crds.fake_api import PATIENCE, FakeApi, Json

NOON = datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()


class World:
    """Teams, what they spend, a clock, and what was written (and so is seen in the teams)."""

    def __init__(self, **specs: Json) -> None:
        self.now = NOON
        self.teams = {name: self.read(name, spec, {}) for name, spec in specs.items()}
        self.spending = Spending()
        self.written: list[tuple[str, Json]] = []
        self.bell = asyncio.Event()
        self.fail = False
        self.told: list[tuple[str, str, bool]] = []
        self.statuses = self.another()

    def another(self) -> TeamStatuses:
        """Those of the next process."""
        return TeamStatuses(
            lambda: self.teams.values(), self.spending, self.write, tell=self.tell, clock=lambda: self.now
        )

    async def tell(self, team: ClaudeTeam, news: News) -> None:
        if self.fail:
            raise Unavailable(Status("away"), "POST")
        self.told.append((team.name, news.reason, news.warning))

    @staticmethod
    def read(name: str, spec: Json, status: Json, uid: str = "1") -> ClaudeTeam:
        body = {"metadata": {"name": name, "uid": uid}, "spec": spec, "status": status}
        return TEAMS.decoder.decode(msgspec.json.encode(body))

    async def write(self, name: str, status: Json) -> None:
        if self.fail:
            raise Unavailable(Status("away"), "PATCH")
        self.written.append((name, status))
        spec = msgspec.to_builtins(self.teams[name].spec)
        self.teams[name] = self.read(name, spec, status, self.teams[name].metadata.uid)
        self.bell.set()

    def spend(self, usd: float, team: str = "red") -> None:
        self.spending.add(team, self.now, Counted(100, 10, 5), usd)

    async def settle(self) -> list[tuple[str, Json]]:
        """All that is due now, written."""
        self.written = []
        for due in self.statuses.due(self.now)[0]:
            await self.statuses._put(due)
        return self.written

    def standing(self) -> dict[str, str]:
        return {c["type"]: c["status"] for c in self.written[-1][1]["conditions"]}


BUDGET: Json = {"budget": {"usd": 10, "period": "day", "warnPercent": 80}}


@pytest.mark.asyncio
async def test_usage_and_conditions_of_the_period() -> None:
    world = World(red=BUDGET)
    world.spend(2.5)
    ((name, status),) = await world.settle()
    assert name == "red"
    assert status["usage"] == {"inputTokens": 105, "outputTokens": 10, "cachedTokens": 5, "costUSD": 2.5}
    assert status["periodStart"] == "2028-02-29T00:00:00.000000Z"
    assert world.standing() == {"BudgetExceeded": "False", "BudgetNear": "False"}
    assert all(set(c) == {"type", "status", "reason", "message", "lastTransitionTime"} for c in status["conditions"])
    assert await world.settle() == []


@pytest.mark.asyncio
async def test_figures_are_written_seldom_but_the_end_of_the_budget_at_once() -> None:
    world = World(red=BUDGET)
    await world.settle()
    world.spend(1)
    world.now += 1
    assert await world.settle() == []
    assert world.statuses.due(world.now)[1] == NOON + WRITE_SECONDS
    world.spend(7)
    assert len(await world.settle()) == 1
    assert world.standing() == {"BudgetExceeded": "False", "BudgetNear": "True"}
    world.spend(2)
    assert len(await world.settle()) == 1
    assert world.standing() == {"BudgetExceeded": "True", "BudgetNear": "True"}
    assert "2028-03-01T00:00:00" in world.written[0][1]["conditions"][0]["message"]
    world.spend(2)
    assert await world.settle() == []
    world.now += WRITE_SECONDS
    before = {c.type: c.last_transition_time for c in world.teams["red"].status.conditions}
    assert len(await world.settle()) == 1
    assert {c.type: c.last_transition_time for c in world.teams["red"].status.conditions} == before


@pytest.mark.asyncio
async def test_a_new_period_begins_with_nothing() -> None:
    world = World(red=BUDGET)
    world.spend(12)
    await world.settle()
    _, wake = world.statuses.due(world.now)
    assert wake == NOON + 3600
    world.now = NOON + 12 * 3600
    assert len(await world.settle()) == 1
    assert world.standing() == {"BudgetExceeded": "False", "BudgetNear": "False"}
    assert world.written[0][1]["usage"]["costUSD"] == 0
    assert world.written[0][1]["periodStart"] == "2028-03-01T00:00:00.000000Z"


@pytest.mark.asyncio
async def test_a_raised_budget_counts_at_once() -> None:
    world = World(red=BUDGET)
    world.spend(12)
    await world.settle()
    status = msgspec.to_builtins(world.teams["red"].status)
    world.teams["red"] = world.read("red", {"budget": {"usd": 100, "period": "day"}}, status)
    world.now += 0.1
    assert len(await world.settle()) == 1
    assert world.standing()["BudgetExceeded"] == "False"


@pytest.mark.asyncio
async def test_a_period_that_begins_between_two_looks_at_the_clock_is_not_missed() -> None:
    world = World(red=BUDGET)
    world.spend(12)
    await world.settle()
    times = itertools.chain([NOON + 12 * 3600 - 1e-6], itertools.repeat(NOON + 12 * 3600 + 1e-6))
    world.statuses._clock = lambda: next(times)
    world.bell.clear()
    task = asyncio.create_task(world.statuses.run())
    async with asyncio.timeout(PATIENCE):
        await world.bell.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.standing() == {"BudgetExceeded": "False", "BudgetNear": "False"}


@pytest.mark.asyncio
async def test_a_team_that_is_made_anew_is_over_its_budget_at_once() -> None:
    world = World(red=BUDGET)
    world.spend(12)
    await world.settle()
    world.teams["red"] = world.read("red", BUDGET, {}, uid="2")
    assert len(await world.settle()) == 1
    assert world.standing()["BudgetExceeded"] == "True"
    assert await world.settle() == []


@pytest.mark.asyncio
async def test_a_write_that_fails_is_tried_again_in_a_moment() -> None:
    world = World(red=BUDGET)
    world.fail = True
    assert await world.settle() == []
    world.fail = False
    assert await world.settle() == []
    world.now += 2
    assert len(await world.settle()) == 1


@pytest.mark.asyncio
async def test_it_writes_when_something_is_spent() -> None:
    world = World(red=BUDGET, blue={})
    task = asyncio.create_task(world.statuses.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while len(world.written) < 2:
                await world.bell.wait()
                world.bell.clear()
            assert {name for name, _ in world.written} == {"red", "blue"}
            world.spend(11)
            while len(world.written) < 3:
                await world.bell.wait()
                world.bell.clear()
        assert world.written[-1][0] == "red"
        assert world.standing()["BudgetExceeded"] == "True"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.asyncio
async def test_it_is_applied_to_the_status_by_its_own_manager() -> None:
    async with FakeApi() as fake:
        fake.put(TEAMS.path("ns"), {"metadata": {"name": "red"}, "spec": {}, "status": {"sessions": 3}})
        async with GatewayApi(fake.loader) as api:
            assert isinstance(api, GatewayApi)
            status: dict[str, Any] = {"usage": {"costUSD": 1.5}}
            cluster = Cluster(api, "ns", load(GatewaySettings, {}))
            await cluster.write_status("red", status)
            team = await api.get(TEAMS, "ns", "red")
            for period in ("2030-01-01", "2030-01-01", "2030-01-02"):
                await cluster.tell(team, News(Notice.BUDGET_NEAR, "Near.", True, period))
            assert len(fake._objects[EVENTS.path("ns")]) == 2, "once a period, whoever tells"
        request = fake.requests[0]
        assert fake.requests[-1].path == EVENTS.path("ns")
        assert (request.method, request.path) == ("PATCH", TEAMS.path("ns", "red", "status"))
        assert dict(request.query) == {"fieldManager": "gateway", "force": "true"}
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"
        assert (team.status.sessions, team.status.usage.cost_usd) == (3, 1.5)


@pytest.mark.asyncio
async def test_each_step_of_a_budget_is_told_once_whatever_process_tells() -> None:
    world = World(red=BUDGET, blue={})
    await world.settle()
    assert world.told == []
    near, exceeded = ("red", "BudgetNear", True), ("red", "BudgetExceeded", True)
    for usd, told in [(8, [near]), (1, [near]), (2, [near, exceeded]), (5, [near, exceeded])]:
        world.spend(usd)
        world.now += WRITE_SECONDS
        await world.settle()
        assert world.told == told
        world.statuses = world.another()
    world.now = NOON + 12 * 3600
    await world.settle()
    await world.settle()
    assert world.told[2:] == [("red", "BudgetReset", False)]
    world.spend(11)
    world.now += WRITE_SECONDS
    await world.settle()
    assert world.told[3:] == [exceeded]
    status = msgspec.to_builtins(world.teams["red"].status)
    world.teams["red"] = world.read("red", {"budget": {"usd": 100, "period": "day"}}, status)
    world.now += WRITE_SECONDS
    await world.settle()
    assert world.told[4:] == [("red", "BudgetReset", False)]


@pytest.mark.asyncio
async def test_an_event_that_cannot_be_written_keeps_nothing_from_being_so() -> None:
    world = World(red=BUDGET)
    world.spend(9)

    async def fail(team: ClaudeTeam, news: News) -> None:
        raise Unavailable(Status("away"), "POST")

    world.statuses._tell = fail
    assert len(await world.settle()) == 1
    assert await world.settle() == []
