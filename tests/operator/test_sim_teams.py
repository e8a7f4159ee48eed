"""Teams on a simulated cluster: turns at the pool's room, limits, statuses; and a cluster without teams."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from claude_crds import apikeys
from claude_crds.resources import SECRETS, SESSION_LABEL, TEAM_LABEL
from claude_operator import optional
from claude_operator import term as terms
from crds.fake_api import Json, status
from operator_sim.api import NAMESPACE, POD, SESSION, TEAM
from operator_sim.cluster import Cluster, cluster, hurry, name


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def team(c: Cluster, called: str, *conversations: str, **spec: Any) -> None:
    """Make or edit it, and have it begin conversations that ask for nothing yet."""
    kept = c.api.get(TEAM, called) or {}
    spec = {**kept.get("spec", {"poolRef": {"name": "default"}}), **spec}
    c.api.put(TEAM, {"metadata": {"name": called}, "spec": spec, "status": kept.get("status", {})})
    for conversation in conversations:
        made = {"conversationID": conversation, "tenant": "default", "team": called, "poolRef": {"name": "default"}}
        c.api.put(SESSION, {"metadata": {"name": name(conversation)}, "spec": {**made, "desiredState": "Suspended"}})


def team_status(c: Cluster, called: str) -> Json:
    found: Json = (c.api.get(TEAM, called) or {}).get("status", {})
    return found


class Started:
    """The sessions that pods were made for, in order; and the most that some had at a time."""

    def __init__(self, c: Cluster, *watched: str) -> None:
        self.order: list[str] = []
        self.most = 0
        self._names = {name(conversation): conversation for conversation in watched}
        self._c = c
        c.api.listeners.append(self._hear)

    def _hear(self, change: str, kind: str, body: Json) -> None:
        if kind != POD:
            return
        session = body["metadata"]["labels"].get(SESSION_LABEL, "")
        if change == "ADDED":
            self.order.append(self._names.get(session, session))
        bound = [p["metadata"]["labels"].get(SESSION_LABEL) for p in self._c.api.all(POD)]
        self.most = max(self.most, sum(session in self._names for session in bound))


async def test_under_a_flood_the_first_of_another_team_is_served_next() -> None:
    flood = [f"m{i}" for i in range(12)]
    async with cluster(pool={"size": 2}) as c:
        team(c, "many", *flood)
        team(c, "few", "f0")
        one, first = await c.held("m0")
        two, second = await c.held("m1")
        rest = [c.request(conversation) for conversation in flood[2:]]
        await c.until(lambda: all(c.phase(m) == "Queued" for m in flood[2:]), "ten wait")
        asked = c.request("f0")
        await c.until(lambda: "Number 1 in the line" in c.status("f0").get("message", ""), "first in the line")
        await c.until(lambda: "Number 2 in the line" in c.status("m2").get("message", ""), "after it")
        started = Started(c, *flood, "f0")
        one.release()
        await asked
        assert started.order == ["f0"]
        two.release()
        for task in (first, second, *rest):
            await task
        assert sorted(started.order[1:]) == sorted(flood[2:])


async def test_on_a_pool_of_one_two_teams_take_turns() -> None:
    flood = [f"m{i}" for i in range(8)]
    async with cluster(pool={"size": 1}) as c:
        team(c, "many", *flood)
        team(c, "few", "f0", "f1")
        worker, first = await c.held("m0")
        rest = [c.request(conversation) for conversation in flood[1:]]
        await c.until(lambda: all(c.phase(m) == "Queued" for m in flood[1:]), "seven wait")
        asked = [c.request("f0"), c.request("f1")]
        await c.until(lambda: all(c.phase(f) == "Queued" for f in ("f0", "f1")), "and two")
        started = Started(c, *flood, "f0", "f1")
        worker.release()
        for task in (first, *asked, *rest):
            await task
        assert [conversation[0] for conversation in started.order[:4]] == ["f", "m", "f", "m"]


async def test_a_team_at_its_limit_waits_though_there_is_room_until_it_may_have_more() -> None:
    async with cluster(pool={"size": 3, "warm": 1}) as c:
        team(c, "small", "s1", "s2", maxLive=1)
        team(c, "other", "o1")
        worker, turn = await c.held("s1")
        waiting = c.request("s2")
        await c.phased("s2", "Queued")
        told = "Number 1 in the line of team small: all 1 workers of its share are in use."
        await c.until(lambda: c.status("s2").get("message") == told, "says why")
        await c.turn("o1")
        await c.until(lambda: len(c.spares()) == 1, "a spare beside it")
        assert c.phase("s2") == "Queued"
        team(c, "small", maxLive=2)
        await waiting
        worker.release()
        await turn


async def test_at_its_limit_its_own_idle_worker_gives_way_and_counts_until_it_is_gone() -> None:
    async with cluster(pool={"size": 3}) as c:
        team(c, "small", "s1", "s2", "s3", maxLive=1)
        started = Started(c, "s1", "s2", "s3")
        await c.turn("other")
        await c.turn("s1")
        c.kubelet.stop_seconds = 0.05
        await c.turn("s2")
        assert c.phase("other") == "Ready"
        # A session that is deleted leaves a worker that is the team's as long as it is there.
        c.delete_session("s2")
        await c.turn("s3")
        assert started.most == 1


async def test_a_lower_limit_takes_idle_workers() -> None:
    async with cluster(pool={"size": 3}) as c:
        team(c, "small", "s1", "s2")
        await c.turn("s1")
        await c.turn("s2")
        team(c, "small", maxLive=1)
        await c.phased("s1", "Suspended")
        assert c.phase("s2") == "Ready"


async def test_a_teams_status_counts_its_conversations_and_leaves_to_others_what_is_theirs() -> None:
    async with cluster(pool={"size": 1}) as c:
        team(c, "t", "a", "b")
        c.api.patch(SESSION, name("b"), status={"phase": "Suspended", "turns": 3, "usage": {"costUSD": 0.5}})
        await c.until(lambda: team_status(c, "t").get("sessions") == 2, "two sessions")
        await c.turn("a")
        await c.until(lambda: team_status(c, "t").get("live") == 1, "one lives")
        await c.until(lambda: team_status(c, "t").get("turns", 0) == 4, "their turns")
        assert team_status(c, "t")["usage"]["costUSD"] >= 0.5
        assert team_status(c, "t")["observedGeneration"] == 1
        # Somebody meters now: usage and conditions are that one's.
        metered: Json = {
            "usage": {"costUSD": 7.25}, "periodStart": datetime.now(UTC).isoformat(),
            "conditions": [{"type": "BudgetNear", "status": "True"}],
        }  # fmt: skip
        c.api.patch(TEAM, "t", status={**team_status(c, "t"), **metered})
        await c.turn("a")
        await c.until(lambda: team_status(c, "t")["turns"] == 5, "turns go on")
        c.delete_session("b")
        await c.until(lambda: team_status(c, "t")["sessions"] == 1, "one is gone")
        kept = team_status(c, "t")
        assert [kept["usage"], kept["periodStart"]] == [metered["usage"], metered["periodStart"]]
        assert metered["conditions"][0] in kept["conditions"]


async def test_without_the_right_to_read_teams_there_are_none_until_there_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(optional, "ASK_AGAIN_SECONDS", 0.02)
    asked, allowed = [], False

    def refuse(request: web.Request) -> web.Response | None:
        if not request.path.startswith(TEAM) or allowed:
            return None
        asked.append(request.path)
        return web.json_response(status(403, "Forbidden", "claudeteams is forbidden"), status=403)

    async with cluster(pool={"size": 3}, begun=False) as c:
        c.api.refuse = refuse
        team(c, "small", "s1", "s2", maxLive=1)
        await c.operator.begun()
        await c.turn("s1")
        await c.turn("s2")
        assert (c.phase("s1"), c.phase("s2")) == ("Ready", "Ready")
        await c.until(lambda: len(asked) > 3, "it goes on asking")
        assert caplog.text.count("claudeteams is forbidden") == 1
        term = c.operator.term
        monkeypatch.setattr(terms, "STUCK_SECONDS", 5.0)
        assert term.problem() == ""
        assert [r.problem for r in term.world.reflectors] == [""] * 5
        allowed = True
        await c.phased("s1", "Suspended")


async def test_what_is_not_written_of_a_team_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_operator.teams.AFTER_ERROR_SECONDS", 0.05)
    refused: list[str] = []

    def refuse(request: web.Request) -> web.Response | None:
        if request.method == "PATCH" and request.path.startswith(TEAM) and len(refused) < 3:
            refused.append(request.path)
            return web.json_response(status(403, "Forbidden", "claudeteams/status is forbidden"), status=403)
        return None

    async with cluster(pool={"size": 1}) as c:
        c.api.refuse = refuse
        team(c, "t", "a")
        await c.turn("a")
        await c.until(lambda: team_status(c, "t").get("live") == 1, "written at last")
        assert len(refused) == 3
        assert c.operator.term.problem() == ""


async def test_a_key_that_ends_is_in_the_conditions_and_told_once_by_all_operators_together() -> None:
    _, record = apikeys.make("t", "ci", time.time(), time.time() + 3600)
    async with cluster(pool={"size": 1}) as c:
        entry = base64.b64encode(apikeys.encode(record)).decode()
        shard = {"metadata": {"name": apikeys.shard_name(apikeys.shard_of(record.id))}, "data": {record.id: entry}}
        c.api.put(SECRETS.path(NAMESPACE), shard)
        team(c, "t")

        def conditions() -> dict[str, str]:
            return {found["type"]: found["status"] for found in team_status(c, "t").get("conditions", [])}

        def told() -> list[str]:
            return [e["reason"] for e in c.api.events if e["involvedObject"]["kind"] == "ClaudeTeam"]

        expected = {"Ready": "True", "KeyExpiring": "True", "KeyExpired": "False"}
        await c.operator.begun()
        await c.operator.term._teams.keys.look()
        c.operator.term._teams._ring_all()
        await c.until(lambda: conditions() == expected, "its conditions")
        await c.operator.end()
        assert told() == ["KeyExpiring"]
        await c.another_operator()
        await c.operator.term._teams.keys.look()
        team(c, "t", poolRef={"name": "gone"})
        await c.until(lambda: conditions() == {**expected, "Ready": "False"}, "its pool is not there")
        await c.operator.end()
        assert told() == ["KeyExpiring"]
        await c.another_operator()


async def test_with_a_gateway_usage_is_not_the_workers_word() -> None:
    async with cluster(pool={"size": 1}, gateway_url="http://gateway") as c:
        team(c, "t", "a")
        await c.turn("a")
        await c.until(lambda: c.status("a").get("turns") == 1, "its turns are")
        assert "usage" not in c.status("a")
        c.api.patch(SESSION, name("a"), status={**c.status("a"), "usage": {"costUSD": 0.25}})
        await c.turn("a")
        await c.until(lambda: c.status("a").get("turns") == 2, "and go on")
        assert c.status("a")["usage"] == {"costUSD": 0.25}
        [pod] = c.api.all(POD)
        assert pod["metadata"]["labels"][TEAM_LABEL] == "t"
