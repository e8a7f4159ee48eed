"""What a request of a team is refused with. None of it says anything about another team."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from claude_worker.openai.errors import ApiError

BUDGET_HEADER = "x-claude-budget"
RESET_HEADER = "x-claude-budget-reset"

OF_LIMITS: Collection[str] = frozenset(
    ("model_not_allowed", "too_many_sessions", "too_many_turns", "rate_limit_exceeded", "budget_exceeded")
)
"""Codes of refusals by a team's limits."""

_BUSY_SECONDS = 2.0


def rfc3339(seconds: float) -> str:
    """`2030-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def teams_unknown() -> ApiError:
    """Teams and keys have not been read yet."""
    return ApiError(
        503, "Teams and keys have not been read yet. Send this again in a moment.", code="starting", retry_after=1
    )


def team_not_found(team: str) -> ApiError:
    """A team that is not there; said to its own keys and to admins only."""
    return ApiError(403, f"There is no team {team!r} here.", code="team_not_found", retry=False)


def team_not_allowed() -> ApiError:
    """The client names a team other than its own; the same whether there is such a team or not."""
    return ApiError(
        403, "The API key's team may not act for other teams; only an admin's may.", code="team_not_allowed"
    )


def model_not_allowed(model: str, allowed: tuple[str, ...]) -> ApiError:
    """A model that is offered, but not to this team."""
    return ApiError(
        403,
        f"The model '{model}' is not open to your team. It may ask for: {', '.join(allowed)}.",
        code="model_not_allowed",
        param="model",
    )


def too_many_sessions(limit: int) -> ApiError:
    """The team may begin no further conversation."""
    return ApiError(
        429,
        f"Your team has {limit} conversations, which is as many as it may have. Purge one"
        " (DELETE /conversations/{id}?purge=true), or go on in one that there is.",
        code="too_many_sessions",
        retry=False,
    )


def too_many_turns(limit: int) -> ApiError:
    """The team's turns that run at this moment are as many as may."""
    return ApiError(
        429,
        f"{limit} turns of your team are running, which is as many as may at a time. Wait for one to end.",
        code="too_many_turns",
        retry_after=_BUSY_SECONDS,
    )


def rate_limit_exceeded(limit: int, wait: float, headers: Mapping[str, str]) -> ApiError:
    """`wait` seconds, and there is room for one more."""
    again = max(1, math.ceil(wait))
    return ApiError(
        429,
        f"Your team may send {limit} requests a minute. Send this again in {again} s.",
        code="rate_limit_exceeded",
        retry_after=again,
        headers=headers,
    )


def budget_exceeded(resets: float, now: float) -> ApiError:
    """What the team may spend in this period is spent."""
    if math.isinf(resets):
        return ApiError(
            429, "Your team's budget is spent.", code="budget_exceeded", retry=False,
            headers={BUDGET_HEADER: "exceeded"},
        )  # fmt: skip
    when = rfc3339(resets)
    return ApiError(
        429,
        f"Your team's budget is spent. The next one begins at {when}.",
        code="budget_exceeded",
        retry=False,
        retry_after=math.ceil(resets - now),
        headers={BUDGET_HEADER: "exceeded", RESET_HEADER: when},
    )


def no_gateway() -> ApiError:
    """Nobody here meters."""
    return ApiError(
        404, "Usage is not metered here: there is no gateway (setting GATEWAY_URL).", code="usage_not_metered"
    )


def usage_unavailable() -> ApiError:
    """The gateway does not answer as it should; its own words go to the log."""
    return ApiError(
        503, "The gateway, which meters, does not answer. Send this again later.", code="usage_unavailable",
        retry_after=5,
    )  # fmt: skip
