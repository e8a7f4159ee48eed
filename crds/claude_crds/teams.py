"""Teams: what their names, conditions and periods are. Pure; times are Unix seconds."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from claude_crds.model_names import split
from claude_crds.resources import READY_CONDITION

NAME_MAX = 63

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)


class TeamNameError(ValueError):
    """No ClaudeTeam can be called so. The message does not repeat the name."""


class Aspect(StrEnum):
    """Types of a ClaudeTeam's conditions."""

    READY = READY_CONDITION
    BUDGET_EXCEEDED = "BudgetExceeded"
    BUDGET_NEAR = "BudgetNear"
    KEY_EXPIRING = "KeyExpiring"
    KEY_EXPIRED = "KeyExpired"


class Period(StrEnum):
    """`spec.budget.period` of a ClaudeTeam."""

    DAY = "day"
    MONTH = "month"


def team_name(text: str) -> str:
    """`text`, if a ClaudeTeam can be called so. Raises TeamNameError."""
    if len(text) > NAME_MAX or not _NAME.fullmatch(text):
        raise TeamNameError(f"a team's name is of a-z, 0-9, - and . (at most {NAME_MAX}), as a ClaudeTeam's")
    return text


def bounds(period: str, now: float) -> tuple[float, float]:
    """When the period that `now` is in began, and when it ends and the next begins: midnight, UTC.

    A period of a newer version counts as a month.
    """
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == Period.DAY:
        return day.timestamp(), (day + timedelta(days=1)).timestamp()
    first = day.replace(day=1)
    return first.timestamp(), (first + timedelta(days=31)).replace(day=1).timestamp()


def may_ask_for(model: str, allowed: Collection[str], offered: Collection[str]) -> bool:
    """Whether a team with these `models` may ask for `model`, where the pool offers `offered` beside `claude-code`.

    A name that is allowed is so with its suffixes, too. Whether the name is offered at all, it does not say.
    """
    if not allowed or model in allowed:
        return True
    found = split(model, offered)
    return found is not None and found[0] in allowed
