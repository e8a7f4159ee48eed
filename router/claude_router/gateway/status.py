"""Every team's usage, cost and budget in its ClaudeTeam's status: at changes, seldom, and at once when it is spent.

An Event tells of each step of a budget, once: what was written before is what a step is one from, whoever wrote it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from claude_crds.access import AccessError
from claude_crds.errors import ApiError, NotFound
from claude_crds.events import Notice
from claude_crds.objects import judged
from claude_crds.resources import timestamp, written_condition
from claude_crds.teams import Aspect
from claude_crds.views import ClaudeTeam, Usage
from claude_router.gateway.budgets import Judged, Standing, judge
from claude_router.gateway.spending import Spending
from claude_router.gateway.usage import Used

log = logging.getLogger(__name__)

MANAGER = "gateway"
WRITE_SECONDS = 5.0
"""The most often that one team's figures are written, unless its budget's standing has changed."""
_RETRY_SECONDS = 2.0

Json = dict[str, Any]
Write = Callable[[str, Json], Awaitable[None]]
"""Applies a team's status; raises ApiError."""


class News(NamedTuple):
    """What an Event about a team says."""

    reason: Notice
    message: str
    warning: bool
    period: str = ""
    """When the budget's period began: a step is told once in it, for the same budget."""


class Due(NamedTuple):
    """A status to write, and what the team's status said before."""

    team: ClaudeTeam
    before: Json
    status: Json


class _Written(NamedTuple):
    """What was written, into which team, when (Unix time)."""

    uid: str
    at: float
    status: Json


Tell = Callable[[ClaudeTeam, News], Awaitable[None]]
"""Has an Event written; raises ApiError."""


def status_of(team: ClaudeTeam, used: Used, judged: Judged, now: float) -> Json:
    """The part of the status that is the gateway's. A condition's time is that of its last change."""
    exceeded, near = judged.standing is Standing.EXCEEDED, judged.standing is not Standing.OK
    budget = team.spec.budget
    spent = f"{used.cost_usd:.2f} of {budget.usd:g} USD are spent" if budget else "There is no budget"
    until = f"{spent}; the next {budget.period} begins at {timestamp(judged.resets)}." if budget else f"{spent}."
    conditions = [
        _condition(team, Aspect.BUDGET_EXCEEDED, exceeded, "Spent" if exceeded else "NotSpent", until, now),
        _condition(team, Aspect.BUDGET_NEAR, near, "NearlySpent" if near else "NotNear", until, now),
    ]
    return {
        "usage": usage_of(used),
        "periodStart": timestamp(judged.start),
        "conditions": conditions,
    }


def usage_of(usage: Usage | Used) -> Json:
    """`status.usage`, of a team or a session."""
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "cachedTokens": usage.cached_tokens,
        "costUSD": round(usage.cost_usd, 6),
    }


def news(before: Json, after: Json) -> News | None:
    """What is worth an Event, of two statuses of a team: once at each step of its budget, up or down."""
    was, now = _level(before), _level(after)
    another = bool(before["periodStart"]) and before["periodStart"] != after["periodStart"]
    message = after["conditions"][0]["message"]
    if now > was or (now and another):
        return News(Notice.BUDGET_EXCEEDED if now > 1 else Notice.BUDGET_NEAR, message, True, after["periodStart"])
    if now == was:
        return None
    why = "A new period has begun" if another else "The budget is another"
    return News(Notice.BUDGET_RESET, f"{why}. {message}", False, after["periodStart"])


def _level(status: Json) -> int:
    """0: below the warning, 1: near, 2: exceeded."""
    holds = {type_ for type_, value in _standing(status) if value == "True"}
    return 2 if Aspect.BUDGET_EXCEEDED in holds else 1 if Aspect.BUDGET_NEAR in holds else 0


def _condition(team: ClaudeTeam, aspect: Aspect, holds: bool, reason: str, message: str, now: float) -> Json:
    status = "True" if holds else "False"
    return written_condition(judged(team.status.conditions, aspect, status, reason, message, now))


class TeamStatuses:
    """Belongs to the event loop. `clock` is Unix time; the decision what to write is `due`."""

    def __init__(
        self,
        teams: Callable[[], Iterable[ClaudeTeam]],
        spending: Spending,
        write: Write,
        *,
        tell: Tell | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._teams = teams
        self._spending = spending
        self._write = write
        self._tell = tell
        self._clock = clock
        self._written: dict[str, _Written] = {}
        self._failed: dict[str, float] = {}
        self._bell = asyncio.Event()
        spending.listen(lambda _: self.ring())

    def ring(self) -> None:
        """Something may have changed."""
        self._bell.set()

    def due(self, now: float) -> tuple[list[Due], float]:
        """The statuses to write now; and, if there are none, when there will be (Unix time)."""
        found: list[Due] = []
        wake = now + 3600.0
        for team in self._teams():
            judged = judge(0.0, team.spec.budget, now)
            used = self._spending.since(team.name, judged.start)
            status = status_of(team, used, judge(used.cost_usd, team.spec.budget, now), now)
            wake = min(wake, judged.resets)
            written = self._written.get(team.name)
            if written is not None and written.uid != team.metadata.uid:
                written = None  # that was another of its name: whoever reads this one finds nothing in it
            before = written.status if written else _present(team)
            if _same(status, before):
                continue
            ready = self._failed.get(team.name, now)
            if written and _standing(status) == _standing(before):
                ready = max(ready, written.at + WRITE_SECONDS)
            if ready <= now:
                found.append(Due(team, before, status))
            else:
                wake = min(wake, ready)
        return found, wake

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._bell.clear()
            due, wake = self.due(self._clock())
            if due:
                for each in due:
                    await self._put(each)
                continue
            try:
                async with asyncio.timeout(max(0.0, wake - self._clock())):
                    await self._bell.wait()
            except TimeoutError:
                continue

    async def _put(self, due: Due) -> None:
        now, name = self._clock(), due.team.name
        written = _Written(due.team.metadata.uid, now, due.status)
        # First, since once it is written nobody would know that it has not been told.
        await self._announce(due)
        try:
            await self._write(name, due.status)
        except NotFound:
            self._written[name] = written  # it has just been deleted
        except (ApiError, AccessError) as error:
            log.warning("a team's status could not be written: %s", error)
            self._failed[name] = now + _RETRY_SECONDS
            return
        self._failed.pop(name, None)
        self._written[name] = written

    async def _announce(self, due: Due) -> None:
        told = news(due.before, due.status)
        if told is None or self._tell is None:
            return
        try:
            await self._tell(due.team, told)
        except (ApiError, AccessError) as error:
            log.warning("an Event was not written: %s", error)


def _present(team: ClaudeTeam) -> Json:
    """What an earlier gateway has written, as far as the view has it."""
    usage, start = team.status.usage, team.status.period_start
    return {
        "usage": usage_of(usage),
        "periodStart": timestamp(start.timestamp()) if start else "",
        "conditions": [
            {"type": c.type, "status": c.status}
            for c in team.status.conditions
            if c.type in (Aspect.BUDGET_EXCEEDED, Aspect.BUDGET_NEAR)
        ],
    }


def _standing(status: Json) -> list[tuple[str, str]]:
    return sorted((c["type"], c["status"]) for c in status["conditions"])


def _same(one: Json, other: Json) -> bool:
    figures = all(one[name] == other[name] for name in ("usage", "periodStart"))
    return figures and _standing(one) == _standing(other)
