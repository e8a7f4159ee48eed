"""Turns and errands of teams over HTTP: limits, headers, what is logged, counted and audited."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from claude_router.app import create_app
from claude_router.metrics import MOST_TEAMS, RouterMetrics
from claude_router.sessions import ConversationKey
from claude_router.settings import RouterSettings
from claude_router.usage import Usage
from claude_worker.dialect import DIALECTS
from claude_worker.openai.errors import ApiError
from router.desk import NOW, Desk, team
from router.fakes import DONE, PATIENCE, Exchange, FakeWorker, Script, frame, streams
from router.harness import CHAT, Endpoint, body, endpoint, error_of
from router.test_isolation import TwoTeams, worker

pytestmark = pytest.mark.asyncio


@dataclass
class Shop:
    """The router and its teams."""

    router: Endpoint
    desk: Desk
    usage: list[dict[str, Any]]

    async def turn(self, key: str, conversation: str = "c", path: str = CHAT, **more: Any) -> httpx.Response:
        asked = {"input": "x", "max_tokens": 9, **body(**more)}
        headers = {"authorization": f"Bearer {key}", "x-conversation-id": conversation}
        return await self.router.client.post(path, json=asked, headers=headers)

    async def get(self, key: str, path: str, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.router.client.get(path, headers=sent | {"authorization": f"Bearer {key}"})

    async def metrics(self) -> str:
        return (await self.router.client.get("/metrics")).text


class SeenUsage(Usage):
    """Answers with what it was asked."""

    async def ask(self, by: str, *, team: str = "", since: str = "", until: str = "") -> bytes:
        return json.dumps({"by": by, "team": team, "since": since, "until": until}).encode()


@contextlib.asynccontextmanager
async def shop(desk: Desk, script: Script = worker, **more: Any) -> AsyncIterator[Shop]:
    sessions = TwoTeams()
    app = create_app(RouterSettings(), sessions, version="1", access=desk.access, **{"team_metrics": True, **more})
    async with FakeWorker(script) as there, endpoint(there.endpoint, sessions=sessions, app=app) as router:
        yield Shop(router, desk, [])


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
async def test_requests_per_minute(dialect: Any) -> None:
    desk = Desk(team("red", requestsPerMinute=2), team("blue"))
    key, other = desk.key("red"), desk.key("blue")
    async with shop(desk) as s:
        first = await s.turn(key, path=dialect.path)
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-conversation-id"] == "c"
        assert (await s.turn(desk.key("red"), path=dialect.path)).status_code == 200, "of the team, not of the key"
        refused = await s.turn(key, path=dialect.path)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "30"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
        assert "rate_limit_exceeded" in refused.text
        unlimited = await s.turn(other, path=dialect.path)
        assert not [name for name in unlimited.headers if name.startswith("x-ratelimit")]
        desk.now += 30
        assert (await s.turn(key, path=dialect.path)).status_code == 200


async def test_requests_per_minute_hold_for_all_that_reaches_a_worker_and_for_nothing_else() -> None:
    desk = Desk(team("red", requestsPerMinute=1))
    key = desk.key("red")
    async with shop(desk) as s:
        s.router.sessions.add("c", "red")
        assert (await s.get(key, "/conversations/c/files")).status_code == 200
        for path in ("/conversations/c/files", "/conversations/c/messages", "/conversations/c/files/x"):
            refused = await s.get(key, path)
            assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
            assert int(refused.headers["retry-after"]) > 0
        for path in ("/conversations", "/conversations/c", "/v1/models"):
            assert (await s.get(key, path)).status_code == 200
        assert (await s.turn(key)).status_code == 429


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
async def test_models(dialect: Any) -> None:
    desk = Desk(team("red", models=["claude-code-opus"]), team("blue"))
    key, other = desk.key("red"), desk.key("blue")
    async with shop(desk) as s:
        for model, status in (("claude-code-opus", 200), ("claude-code-opus-client", 200), ("claude-code", 403),
                              ("claude-code-haiku-tools", 403), ("gpt-4o", 404)):  # fmt: skip
            answer = await s.turn(key, path=dialect.path, model=model)
            assert answer.status_code == status, model
            if status == 403:
                assert "model_not_allowed" in answer.text
                assert "claude-code-opus" in answer.text
            assert (await s.turn(other, path=dialect.path, model=model)).status_code == (404 if status == 404 else 200)
        shown = [m["id"] for m in (await s.get(key, "/v1/models")).json()["data"]]
        assert shown == ["claude-code-opus"]
        assert (await s.get(key, "/v1/models/claude-code")).status_code == 404
        assert (await s.get(key, "/v1/models/claude-code-opus")).status_code == 200
        assert len((await s.get(other, "/v1/models")).json()["data"]) > 3


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
async def test_who_asks_for_an_unknown_model_is_told_of_those_that_it_may_ask_for(dialect: Any) -> None:
    desk = Desk(team("red", models=["claude-code-opus"]), team("blue"), team("odd", models=["elsewhere"]))
    keys = {name: desk.key(name) for name in ("red", "blue", "odd")}
    told = {"red": "claude-code-opus", "blue": ", ".join(RouterSettings().model_ids), "odd": "none"}
    async with shop(desk) as s:
        for name, models in told.items():
            turn = await s.turn(keys[name], path=dialect.path, model="gpt-4o")
            lookup = await s.get(keys[name], "/v1/models/gpt-4o")
            for answer in (turn, lookup):
                assert answer.status_code == 404
                assert answer.json()["error"]["message"].endswith(f"does not exist here. Offered: {models}.")


class Slow:
    """Answers each turn when it is told to."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def __call__(self, exchange: Exchange) -> None:
        go_on = asyncio.Event()
        self.arrived.put_nowait(go_on)
        await exchange.head()
        await exchange.chunk(frame("a"))
        await go_on.wait()
        await exchange.end(DONE)

    async def one(self) -> asyncio.Event:
        async with asyncio.timeout(PATIENCE):
            return await self.arrived.get()


async def test_turns_at_a_time_and_that_every_end_of_a_turn_gives_its_place_back() -> None:
    desk, slow = Desk(team("red", maxConcurrentTurns=2), team("blue")), Slow()
    key, other = desk.key("red"), desk.key("blue")
    async with shop(desk, slow) as s:
        turns = [asyncio.create_task(s.turn(key, name, stream=True)) for name in "ab"]
        ends = [await slow.one() for _ in turns]
        refused = await s.turn(key, "c")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_turns")
        assert refused.headers["retry-after"] == "2"
        assert 'claude_team_running_requests{team="red"} 2.0' in await s.metrics()
        theirs = asyncio.create_task(s.turn(other, "c", stream=True))
        (await slow.one()).set()
        assert (await theirs).status_code == 200
        ends[0].set()
        await turns[0]
        # One whose client leaves, and one that is not valid: neither keeps a place.
        left = asyncio.create_task(s.turn(key, "d", stream=True))
        await slow.one()
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left
        await _until(lambda: desk.access.limits.turns("red") == 1)
        assert (await s.turn(key, "e", messages=[])).status_code == 400
        assert desk.access.limits.turns("red") == 1
        ends[1].set()
        await turns[1]
        await _until(lambda: desk.access.limits.turns("red") == 0)
        metrics = await s.metrics()
        assert 'claude_team_running_requests{team="red"} 0.0' in metrics
        assert 'claude_team_refused_requests_total{code="too_many_turns",team="red"} 1.0' in metrics


async def _until(true: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_conversations_of_a_team() -> None:
    desk = Desk(team("red", maxSessions=2), team("blue"))
    key, other = desk.key("red"), desk.key("blue")
    async with shop(desk) as s:
        s.router.sessions.add("theirs", "blue")
        for name in ("a", "b", "a"):
            assert (await s.turn(key, name)).status_code == 200
        refused = await s.turn(key, "c")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_sessions")
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-conversation-id"] == "c"
        headers = {"authorization": f"Bearer {key}"}
        put = await s.router.client.put("/conversations/c/files/x", content=b"x", headers=headers)
        assert (put.status_code, error_of(put)["code"]) == (429, "too_many_sessions")
        fork = await s.router.client.post("/conversations/a/fork", headers=headers)
        assert (fork.status_code, error_of(fork)["code"]) == (429, "too_many_sessions")
        assert (await s.router.client.put("/conversations/a/files/x", content=b"x", headers=headers)).status_code == 200
        assert s.router.sessions.count("red") == 2
        assert (await s.turn(other, "c")).status_code == 200
        assert (await s.router.client.delete("/conversations/a?purge=true", headers=headers)).status_code == 200
        assert (await s.turn(key, "c")).status_code == 200


async def test_a_flood_of_new_conversations_at_once_is_held_as_well() -> None:
    desk = Desk(team("red", maxSessions=3))
    key = desk.key("red")
    async with shop(desk) as s:
        s.router.sessions.gate.clear()
        turns = [asyncio.create_task(s.turn(key, f"c{n}")) for n in range(20)]
        await _until(lambda: sum(t.done() for t in turns) == 17)
        s.router.sessions.gate.set()
        answers = [await t for t in turns]
    assert sorted(a.status_code for a in answers) == [200] * 3 + [429] * 17
    assert s.router.sessions.count("red") <= 3


def spent(kind: str, **more: Any) -> Any:
    condition = {"type": kind, "status": "True", "lastTransitionTime": "2030-03-17T10:00:00Z"}
    status = {"conditions": [condition], "periodStart": "2030-03-17T00:00:00Z"}
    return team("red", budget={"usd": 5, "period": "day"}, status=status, **more)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
async def test_a_budget_that_is_spent_near_and_reset(dialect: Any) -> None:
    desk = Desk(team("red", budget={"usd": 5, "period": "day"}))
    key = desk.key("red")
    async with shop(desk) as s:
        assert "x-claude-budget" not in (await s.turn(key, path=dialect.path)).headers
        desk.side.teams.replace([spent("BudgetNear")])
        near = await s.turn(key, path=dialect.path)
        assert (near.status_code, near.headers["x-claude-budget"]) == (200, "near")
        desk.side.teams.replace([spent("BudgetExceeded")])
        refused = await s.turn(key, path=dialect.path)
        assert refused.status_code == 429
        assert "budget_exceeded" in refused.text
        assert "2030-03-18T00:00:00Z" in refused.text
        assert refused.headers["x-claude-budget"] == "exceeded"
        assert refused.headers["x-claude-budget-reset"] == "2030-03-18T00:00:00Z"
        assert refused.headers["retry-after"] == str(int(86_400 - NOW % 86_400))
        assert refused.headers["x-should-retry"] == "false"
        assert (await s.get(key, "/conversations/c/files")).status_code == 200, "what was made can still be had"
        desk.now += 86_400 - NOW % 86_400
        again = await s.turn(key, path=dialect.path)
        assert (again.status_code, again.headers.get("x-claude-budget")) == (200, None)


async def test_a_turn_that_runs_when_the_budget_is_spent_ends_well() -> None:
    desk, slow = Desk(team("red")), Slow()
    key = desk.key("red")
    async with shop(desk, slow) as s:
        turn = asyncio.create_task(s.turn(key, stream=True))
        end = await slow.one()
        desk.side.teams.replace([spent("BudgetExceeded")])
        assert (await s.turn(key, "other")).status_code == 429
        end.set()
        assert (await turn).content == frame("a") + DONE


async def test_limits_are_those_of_the_team_that_an_admin_acts_for() -> None:
    desk = Desk(team("red", requestsPerMinute=1), team("root", admin=True))
    root = desk.key("root")
    async with shop(desk) as s:
        headers = {"authorization": f"Bearer {root}", "x-claude-team": "red"}
        statuses = [(await s.router.client.post(CHAT, json=body(), headers=headers)).status_code for _ in range(2)]
        assert statuses == [200, 429]
        assert (await s.turn(root)).status_code == 200
        assert [k.tenant for k, _ in s.router.sessions.acquired] == ["red", "root"]


async def test_usage_is_ones_own_and_an_admins_everybodys() -> None:
    desk = Desk(team("red"), team("blue"), team("root", admin=True), static=("key-number-one",))
    red, root = desk.key("red"), desk.key("root")
    async with shop(desk, usage=SeenUsage()) as s:
        path = "/v1/usage?by=model&since=2030-01-01&until=2030-02-01"
        asked = {"by": "model", "since": "2030-01-01", "until": "2030-02-01"}
        answer = await s.get(red, path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == asked | {"team": "red"}
        assert (await s.get(red, path + "&team=red")).json() == asked | {"team": "red"}
        assert (await s.get("key-number-one", path)).json() == asked | {"team": "default"}
        for name in ("blue", "*"):
            assert (await s.get(red, f"{path}&team={name}")).status_code == 403
        assert (await s.get(root, path)).json() == asked | {"team": ""}
        assert (await s.get(root, path + "&team=*")).json() == asked | {"team": ""}
        assert (await s.get(root, path + "&team=blue")).json() == asked | {"team": "blue"}
        assert (await s.get(root, path, x_claude_team="red")).json() == asked | {"team": "red"}
        assert (await s.get(root, "/v1/usage?by=hour")).status_code == 400
    async with endpoint() as open_:
        gone = await open_.client.get("/v1/usage")
        assert (gone.status_code, error_of(gone)["code"]) == (404, "usage_not_metered")


async def test_the_team_in_log_and_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    desk = Desk(team("red"), static=("key-number-one",))
    key = desk.key("red")
    async with shop(desk) as s:
        await s.turn(key)
        await s.get(key, "/conversations")
        await s.turn("key-number-one")
        await s.turn("nonsense-key")
        metrics = await s.metrics()
    lines = [r.__dict__["fields"] for r in caplog.records if r.name == "claude_router.access"]
    assert [line.get("team") for line in lines] == ["red", "red", "default", None]
    assert 'claude_team_requests_total{status="200",team="red"} 2.0' in metrics
    assert 'claude_team_requests_total{status="200",team="default"} 1.0' in metrics
    assert key not in " ".join(str(vars(r)) for r in caplog.records)


async def test_without_teams_neither_log_nor_metrics_know_any(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeWorker(streams(frame("a"), DONE)) as there, endpoint(there.endpoint) as router:
        await router.chat(x_conversation_id="c", x_claude_team="red")
        listed = await router.client.get("/conversations?team=red")
        metrics = (await router.client.get("/metrics")).text
    assert listed.status_code == 200
    assert [k for k, _ in router.sessions.acquired] == [ConversationKey("default", "c")]
    assert not [r for r in caplog.records if "team" in r.__dict__.get("fields", {})]
    assert 'team="' not in metrics


async def test_metrics_that_everybody_may_read_name_no_team_unless_asked_for() -> None:
    desk = Desk(team("red", requestsPerMinute=1))
    key = desk.key("red")
    async with shop(desk, team_metrics=False) as s:
        for status in (200, 429):
            assert (await s.turn(key)).status_code == status
        await s.get(key, "/conversations")
        assert 'team="' not in await s.metrics()
        assert desk.access.limits.turns("red") == 0


async def test_a_bounded_number_of_teams_in_metrics() -> None:
    metrics = RouterMetrics(teams=True)
    for number in range(MOST_TEAMS + 50):
        metrics.answered_team(f"team-{number}", 200)
    assert metrics.team_label("team-0") == "team-0"
    assert metrics.team_label(f"team-{MOST_TEAMS}") == "other"
    samples = [
        s for family in metrics.registry.collect() for s in family.samples if s.name == "claude_team_requests_total"
    ]
    assert len(samples) == MOST_TEAMS + 1
    assert sum(s.value for s in samples) == MOST_TEAMS + 50


async def test_a_desk_of_which_nothing_is_known_yet() -> None:
    async with shop(Desk(ready=lambda: False)) as s:
        answer = await s.turn("any-key-of-anybody")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "starting")
        assert answer.headers["retry-after"] == "1"
        assert (await s.router.client.get("/health")).status_code == 200
    with pytest.raises(ApiError):
        Desk(ready=lambda: False).access.enter({})
