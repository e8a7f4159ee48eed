"""A team's status: what its conversations come to, written some time after it has changed.

The operator counts `sessions`, `live` and `turns`, and judges Ready, KeyExpiring and KeyExpired. Usage and cost are the
sums over the conversations that there are, until somebody who meters them writes `periodStart`: from then on they are
that writer's, as the conditions about the budget always are.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.errors import ApiError, Conflict, NotFound
from claude_crds.events import Cause
from claude_crds.objects import judged
from claude_crds.resources import OPERATOR, TEAMS, written_condition
from claude_crds.teams import Aspect
from claude_crds.views import ClaudePool, ClaudeSession, ClaudeTeam, TeamStatus, Usage, condition
from claude_operator import team_keys
from claude_operator.lease import NotLeading
from claude_operator.metrics import OperatorMetrics
from claude_operator.recorder import Recorder
from claude_operator.team_keys import Found, TeamKeys
from claude_operator.world import BY_TEAM, World

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
"""From a change to its write: many come together, and nothing waits for it."""
AFTER_ERROR_SECONDS = 30.0


def target(team: ClaudeTeam, sessions: Iterable[ClaudeSession]) -> TeamStatus:
    """The status that is true of the team, whose sessions these are."""
    found = [s.status for s in sessions]
    status = msgspec.structs.replace(
        team.status,
        observed_generation=team.metadata.generation,
        sessions=len(found),
        live=sum(1 for s in found if s.pod_name),
        turns=sum(s.turns for s in found),
    )
    if status.period_start is not None:
        return status
    usage = [s.usage for s in found]
    return msgspec.structs.replace(
        status,
        usage=Usage(
            input_tokens=sum(u.input_tokens for u in usage),
            output_tokens=sum(u.output_tokens for u in usage),
            cached_tokens=sum(u.cached_tokens for u in usage),
            cost_usd=round(math.fsum(u.cost_usd for u in usage), 6),
        ),
    )


def patch(old: TeamStatus, new: TeamStatus) -> dict[str, Any]:
    """The merge patch from one to the other, of what has changed only: the rest is others'. Empty if nothing has."""
    body: dict[str, Any] = {
        "observedGeneration": new.observed_generation,
        "sessions": new.sessions,
        "live": new.live,
        "turns": new.turns,
    }
    if new.usage != old.usage:
        body["usage"] = {
            "inputTokens": new.usage.input_tokens,
            "outputTokens": new.usage.output_tokens,
            "cachedTokens": new.usage.cached_tokens,
            "costUSD": new.usage.cost_usd,
        }
    return {"status": body} if new != old else {}


def ready(team: ClaudeTeam, pool: ClaudePool | None) -> Found:
    """Whether requests of the team are taken, and what keeps them from it."""
    exceeded = condition(team.status.conditions, Aspect.BUDGET_EXCEEDED)
    if pool is None:
        message = f"ClaudePool {team.pool} does not exist: create it, or name another in spec.poolRef."
        return Found(Aspect.READY, False, Cause.POOL_MISSING, message)
    if exceeded is not None and exceeded.status == "True":
        return Found(Aspect.READY, False, Aspect.BUDGET_EXCEEDED, exceeded.message)
    return Found(Aspect.READY, True, "RequestsTaken", "")


def conditions(team: ClaudeTeam, found: Iterable[Found], now: float) -> list[dict[str, Any]]:
    """What is found, as conditions: each has the time of its last change. Empty if the team has them already."""
    made: list[dict[str, Any]] = []
    changed = False
    for aspect in found:
        before = condition(team.status.conditions, aspect.type)
        status = "True" if aspect.holds else "False"
        changed = changed or before is None or (before.status, before.reason, before.message) != (
            status, aspect.reason, aspect.message
        )  # fmt: skip
        after = judged(team.status.conditions, aspect.type, status, aspect.reason, aspect.message, now)
        made.append(written_condition(after))
    return made if changed else []


class TeamWriter:
    """Follows `world`, once made, and writes while it runs. `lead` raises when this replica may not write any more."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        world: World,
        recorder: Recorder,
        metrics: OperatorMetrics,
        lead: Callable[[], None],
        *,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._world = world
        self._recorder = recorder
        self._metrics = metrics
        self._lead = lead
        self._unix = unix
        self.keys = TeamKeys(api, namespace, lambda: bool(world.teams.items()), self._ring_all)
        self._bell = asyncio.Event()
        self._changed: set[str] = set()
        world.sessions.listen(self._session_changed)
        world.teams.listen(self._team_changed)
        world.pools.listen(self._pool_changed)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._bell.wait()
            await asyncio.sleep(INTERVAL_SECONDS)
            self._bell.clear()
            changed, self._changed = self._changed, set()
            try:
                for name in sorted(changed):
                    await self._write(name)
            except (ApiError, AccessError, NotLeading) as error:
                log.warning("the teams' statuses are not written: %s", error)
                for name in changed:
                    self._ring(name)
                await asyncio.sleep(AFTER_ERROR_SECONDS)

    async def _write(self, name: str) -> None:
        team = self._world.teams.get(name)
        if team is None or team.leaving:
            return
        status = target(team, self._world.sessions.by(BY_TEAM, name))
        self._metrics.team(name, status)
        try:
            if body := patch(team.status, status):
                self._lead()
                version = team.metadata.resource_version
                team = await self._api.patch(
                    TEAMS, self._namespace, name, body, subresource="status", resource_version=version
                )
                self._world.teams.learn(team)
            await self._write_conditions(team)
        except (Conflict, NotFound):
            self._ring(name)

    async def _write_conditions(self, team: ClaudeTeam) -> None:
        """By an apply: those that others write are none of ours, and stay."""
        now, keys = self._unix(), self.keys.of(team.name)
        found = [ready(team, self._world.pools.get(team.pool))]
        if keys is not None:
            found += team_keys.aspects(keys, now)
        made = conditions(team, found, now)
        if not made:
            return
        self._lead()
        body = {"metadata": {"name": team.name}, "status": {"conditions": made}}
        self._world.teams.learn(
            await self._api.apply(TEAMS, self._namespace, body, manager=OPERATOR, subresource="status")
        )
        for told in team_keys.news(team, keys or (), now):
            self._recorder.tell(TEAMS, team, told.reason, told.message, warning=True)

    def _session_changed(self, _: str, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        if old is None or new is None or _counted(old) != _counted(new):
            for session in (old, new):
                if session is not None and session.spec.team:
                    self._ring(session.spec.team)

    def _team_changed(self, _: str, old: ClaudeTeam | None, new: ClaudeTeam | None) -> None:
        if new is not None:
            self._ring(new.name)
        elif old is not None:
            self._metrics.team(old.name, None)

    def _pool_changed(self, _: str, old: ClaudePool | None, new: ClaudePool | None) -> None:
        if old is None or new is None:
            self._ring_all()

    def _ring_all(self) -> None:
        for team in self._world.teams.items():
            self._ring(team.name)

    def _ring(self, team: str) -> None:
        self._changed.add(team)
        self._bell.set()


def _counted(session: ClaudeSession) -> tuple[object, ...]:
    status = session.status
    return session.spec.team, bool(status.pod_name), status.turns, status.usage
