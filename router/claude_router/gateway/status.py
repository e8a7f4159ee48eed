"""Every team's usage, cost and budget in its ClaudeTeam's status: at changes, seldom, and at once when it is spent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

from claude_crds.access import AccessError
from claude_crds.errors import ApiError, NotFound
from claude_crds.objects import Condition, condition
from claude_crds.resources import timestamp
from claude_crds.teams import Aspect
from claude_crds.views import ClaudeTeam
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
        "usage": {
            "inputTokens": used.input_tokens,
            "outputTokens": used.output_tokens,
            "cachedTokens": used.cached_tokens,
            "costUSD": round(used.cost_usd, 6),
        },
        "periodStart": timestamp(judged.start),
        "conditions": conditions,
    }


def _condition(team: ClaudeTeam, aspect: Aspect, holds: bool, reason: str, message: str, now: float) -> Json:
    before: Condition | None = condition(team.status.conditions, aspect)
    status = "True" if holds else "False"
    since = now
    if before is not None and before.status == status and isinstance(before.last_transition_time, datetime):
        since = before.last_transition_time.timestamp()
    return {
        "type": aspect.value,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": timestamp(since),
    }


class TeamStatuses:
    """Belongs to the event loop. `clock` is Unix time; the decision what to write is `due`."""

    def __init__(
        self,
        teams: Callable[[], Iterable[ClaudeTeam]],
        spending: Spending,
        write: Write,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._teams = teams
        self._spending = spending
        self._write = write
        self._clock = clock
        self._written: dict[str, tuple[float, Json]] = {}
        self._failed: dict[str, float] = {}
        self._bell = asyncio.Event()
        spending.listen(lambda _: self.ring())

    def ring(self) -> None:
        """Something may have changed."""
        self._bell.set()

    def due(self, now: float) -> tuple[list[tuple[str, Json]], float]:
        """The statuses to write now, and until when nothing else is to be done (Unix time)."""
        found: list[tuple[str, Json]] = []
        wake = now + 3600.0
        for team in self._teams():
            judged = judge(0.0, team.spec.budget, now)
            used = self._spending.since(team.name, judged.start)
            status = status_of(team, used, judge(used.cost_usd, team.spec.budget, now), now)
            wake = min(wake, judged.resets)
            last, before = self._written.get(team.name, (0.0, _present(team)))
            if _same(status, before):
                continue
            ready = self._failed.get(team.name, now)
            if team.name in self._written and _standing(status) == _standing(before):
                ready = max(ready, last + WRITE_SECONDS)
            if ready <= now:
                found.append((team.name, status))
            else:
                wake = min(wake, ready)
        return found, wake

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._bell.clear()
            due, _ = self.due(self._clock())
            for name, status in due:
                await self._put(name, status)
            _, wake = self.due(self._clock())
            try:
                async with asyncio.timeout(max(0.0, wake - self._clock())):
                    await self._bell.wait()
            except TimeoutError:
                continue

    async def _put(self, name: str, status: Json) -> None:
        now = self._clock()
        try:
            await self._write(name, status)
        except NotFound:
            self._written[name] = (now, status)  # it has just been deleted
        except (ApiError, AccessError) as error:
            log.warning("a team's status could not be written: %s", error)
            self._failed[name] = now + _RETRY_SECONDS
            return
        self._failed.pop(name, None)
        self._written[name] = (now, status)


def _present(team: ClaudeTeam) -> Json:
    """What an earlier gateway has written, as far as the view has it."""
    usage, start = team.status.usage, team.status.period_start
    return {
        "usage": {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "cachedTokens": usage.cached_tokens,
            "costUSD": usage.cost_usd,
        },
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
