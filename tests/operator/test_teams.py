"""What a team's status says, and what of it is left to others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_crds.resources import TEAMS
from claude_crds.views import ClaudeSession, ClaudeTeam
from claude_operator.teams import patch, target
from crds.fake_api import merge
from operator_sim.made import session


def team(*, generation: int = 3, **status: Any) -> ClaudeTeam:
    meta = {"name": "t", "uid": "u", "generation": generation, "resourceVersion": "1"}
    return TEAMS.decoder.decode(json.dumps({"metadata": meta, "spec": {}, "status": status}))


def used(name: str, turns: int, *, pod: str = "", **usage: float) -> ClaudeSession:
    return session(name, status={"turns": turns, "podName": pod, "usage": usage}, team="t")


SESSIONS = [
    used("a", 2, pod="p", inputTokens=10, outputTokens=3, cachedTokens=1, costUSD=0.1),
    used("b", 3, inputTokens=20, outputTokens=4, cachedTokens=2, costUSD=0.2),
    used("c", 0),
]


def test_it_is_what_its_conversations_come_to() -> None:
    status = target(team(), SESSIONS)
    assert (status.sessions, status.live, status.turns, status.observed_generation) == (3, 1, 5, 3)
    usage = status.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cost_usd) == (30, 7, 3, 0.3)
    none = target(team(sessions=3, turns=5), [])
    assert (none.sessions, none.live, none.turns) == (0, 0, 0)


def test_usage_is_the_meters_from_its_first_word_on() -> None:
    metered = team(usage={"costUSD": 9.5}, periodStart="2030-01-01T00:00:00Z")
    status = target(metered, SESSIONS)
    assert (status.sessions, status.turns, status.usage.cost_usd) == (3, 5, 9.5)
    assert "usage" not in patch(metered.status, status)["status"]


CONDITIONS = [{"type": "Ready", "status": "True"}]


@pytest.mark.parametrize("before", [{}, {"turns": 9, "usage": {"costUSD": 1.0}, "conditions": CONDITIONS}])
def test_a_patch_comes_back_as_what_was_meant_and_touches_nothing_of_others(before: dict[str, Any]) -> None:
    old = team(**before)
    meant = target(old, SESSIONS)
    body = patch(old.status, meant)
    assert not body["status"].keys() & {"conditions", "periodStart"}
    again = team(**merge(before, body["status"]))
    assert again.status == meant
    assert patch(again.status, target(again, SESSIONS)) == {}
