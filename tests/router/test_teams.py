"""Teams: from a ClaudeTeam to what it may do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from claude_router.teams import NOBODYS, TeamPolicy, Teams, policy_of
from router.desk import team

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
MIDNIGHT = datetime(2030, 2, 1, tzinfo=UTC).timestamp()


def standing(period_start: str | None = "2030-01-31T00:00:00Z", **conditions: str) -> dict[str, Any]:
    found = [
        {"type": kind, "status": status, "lastTransitionTime": "2030-01-31T11:00:00Z"}
        for kind, status in conditions.items()
    ]
    return {"conditions": found, **({"periodStart": period_start} if period_start else {})}


def test_every_field_of_the_spec() -> None:
    spec: dict[str, Any] = {
        "poolRef": {"name": "big"}, "models": ["claude-code"], "maxSessions": 1, "maxLive": 2,
        "maxConcurrentTurns": 3, "requestsPerMinute": 4, "admin": True,
    }  # fmt: skip
    assert policy_of(team(**spec)) == TeamPolicy("red", "big", ("claude-code",), 1, 2, 3, 4, True)
    assert policy_of(team()) == TeamPolicy("red", "default")


@pytest.mark.parametrize("period_start", ["2030-01-31T00:00:00Z", None])
def test_how_a_budget_stands(period_start: str | None) -> None:
    budget = {"usd": 5, "period": "day"}
    for conditions, expected in (
        ({}, ""),
        ({"BudgetNear": "False", "BudgetExceeded": "False"}, ""),
        ({"BudgetNear": "True", "BudgetExceeded": "False"}, "near"),
        ({"BudgetNear": "True", "BudgetExceeded": "True"}, "exceeded"),
        ({"BudgetExceeded": "Unknown"}, ""),
    ):
        found = policy_of(team(budget=budget, status=standing(period_start, **conditions)))
        assert found.spent(NOON.timestamp()) == expected
        assert found.spent(MIDNIGHT) == "", "the period is over, whoever has not yet said so"


def test_a_month_ends_with_the_month() -> None:
    found = policy_of(team(budget={"usd": 5}, status=standing("2030-01-01T00:00:00Z", BudgetExceeded="True")))
    assert (found.budget, found.resets) == ("exceeded", MIDNIGHT)


def test_a_condition_without_any_time_holds() -> None:
    status = {"conditions": [{"type": "BudgetExceeded", "status": "True"}]}
    assert policy_of(team(budget={"usd": 5}, status=status)).spent(1e12) == "exceeded"


def test_without_a_budget_conditions_say_nothing() -> None:
    assert policy_of(team(status=standing(BudgetExceeded="True"))).budget == ""


def test_teams_come_change_and_go() -> None:
    teams = Teams()
    assert (len(teams), teams.policy("red")) == (0, None)
    teams.changed("added", None, team(maxLive=3))
    teams.changed("added", None, team("blue"))
    teams.changed("modified", team(maxLive=3), team(maxLive=4, maxSessions=9))
    assert teams.policy("red") == TeamPolicy("red", "default", max_live=4, max_sessions=9)
    assert teams.shares() == {"red": 4}
    teams.changed("deleted", team("red"), None)
    assert (len(teams), teams.policy("red"), teams.shares()) == (1, None, {})
    teams.replace([team("green")])
    assert (teams.policy("blue"), len(teams)) == (None, 1)


def test_where_nobody_lists_teams_each_is_without_limits() -> None:
    teams = Teams(listed=False)
    assert teams.policy("red") == TeamPolicy("red")
    assert len(teams) == 0


def test_where_new_conversations_go() -> None:
    teams = Teams()
    teams.replace([team(poolRef={"name": "big"})])
    assert teams.home("red") == ("big", "red")
    assert teams.home("gone") == ("", "")
    assert teams.home("default") == ("", "")
    assert teams.of_nobody() is NOBODYS
    teams.replace([team("default", poolRef={"name": "small"}, requestsPerMinute=5)])
    assert teams.home("default") == ("small", "default")
    assert teams.of_nobody().requests_per_minute == 5
