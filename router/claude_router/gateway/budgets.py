"""Whether a team may go on spending. Pure; times are Unix seconds, money is US dollars."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from claude_crds.teams import Period, bounds
from claude_crds.views import Budget


class Standing(StrEnum):
    """How a budget stands."""

    OK = "ok"
    NEAR = "near"
    EXCEEDED = "exceeded"


@dataclass(frozen=True, slots=True)
class Judged:
    """A budget in the period that began at `start` and is over at `resets`."""

    standing: Standing
    spent: float
    start: float
    resets: float


def judge(spent: float, budget: Budget | None, now: float) -> Judged:
    """`spent` in the period that `now` is in. Without a budget all is well, and the period is a month."""
    start, resets = bounds(budget.period if budget else Period.MONTH, now)
    standing = Standing.OK
    if budget and spent >= budget.usd:
        standing = Standing.EXCEEDED
    elif budget and spent >= budget.usd * budget.warn_percent / 100:
        standing = Standing.NEAR
    return Judged(standing, spent, start, resets)


def over_ceiling(spent: float, budget: Budget | None, percent: int) -> bool:
    """Whether so much of the budget is spent that even a running turn gets no more; `percent` 0: never."""
    return bool(budget and percent and spent >= budget.usd * percent / 100)
