"""What holds for a team at the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from claude_crds.views import Budget, ClaudePool, ClaudeTeam, PoolSpec
from claude_router.gateway.callers import NO_TEAM, Caller
from claude_router.gateway.models import meant, permits


@dataclass(frozen=True, slots=True)
class Policy:
    """`models` None: all. With `own_account`, requests go to `base_url` (or Anthropic's) with the team's own key."""

    models: tuple[str, ...] | None = None
    budget: Budget | None = None
    own_account: bool = False
    base_url: str = ""

    def permits(self, model: str) -> bool:
        """Whether a request may name this model."""
        return self.models is None or permits(self.models, model)


OPEN = Policy()


class Teams(Protocol):
    """Knows the teams."""

    def policy(self, caller: Caller) -> Policy | None:
        """What holds for the caller's team; None: there is no such team any more."""
        ...

    def budgets(self) -> Mapping[str, Budget]:
        """Those that have one, by the team's name."""
        ...

    def known(self, team: str) -> bool:
        """Whether there is such a team: metrics name no others."""
        ...


def policy_of(team: ClaudeTeam, pool: PoolSpec, small: tuple[str, ...] = ()) -> Policy:
    """`small`: models that every team may use, since Claude Code takes them for chores of its own."""
    words = meant(team.spec.models, pool)
    anthropic = team.spec.anthropic
    return Policy(
        models=None if words is None else (*words, *small),
        budget=team.spec.budget,
        # A baseURL without a key of the team's: the shared key must not go there, so none is used.
        own_account=anthropic.secret_ref is not None or bool(anthropic.base_url),
        base_url=anthropic.base_url,
    )


class StaticTeams:
    """Teams that are known beforehand."""

    def __init__(self, policies: Mapping[str, Policy] | None = None) -> None:
        self._policies = {NO_TEAM: OPEN, **(policies or {})}

    def policy(self, caller: Caller) -> Policy | None:
        """See Teams."""
        return self._policies.get(caller.team)

    def budgets(self) -> Mapping[str, Budget]:
        """See Teams."""
        return {name: policy.budget for name, policy in self._policies.items() if policy.budget}

    def known(self, team: str) -> bool:
        """See Teams."""
        return team in self._policies


class ClusterTeams:
    """The ClaudeTeams as the cluster has them, with what the pools' model names mean."""

    def __init__(
        self,
        teams: Callable[[str], ClaudeTeam | None],
        pools: Callable[[str], ClaudePool | None],
        all_teams: Callable[[], tuple[ClaudeTeam, ...]],
        small: tuple[str, ...],
    ) -> None:
        self._teams = teams
        self._pools = pools
        self._all = all_teams
        self._small = small
        self._made: dict[tuple[str, str], tuple[ClaudeTeam, ClaudePool | None, Policy]] = {}

    def policy(self, caller: Caller) -> Policy | None:
        """See Teams. A session without a team is free, unless a ClaudeTeam has that very name."""
        team = self._teams(caller.team)
        if team is None:
            return OPEN if caller.team == NO_TEAM else None
        pool = self._pools(caller.pool)
        made = self._made.get((caller.team, caller.pool))
        if made is None or made[0] is not team or made[1] is not pool:
            if len(self._made) > 10_000:
                self._made.clear()
            made = (team, pool, policy_of(team, pool.spec if pool else PoolSpec(), self._small))
            self._made[caller.team, caller.pool] = made
        return made[2]

    def budgets(self) -> Mapping[str, Budget]:
        """See Teams."""
        return {team.name: team.spec.budget for team in self._all() if team.spec.budget}

    def known(self, team: str) -> bool:
        """See Teams."""
        return team == NO_TEAM or self._teams(team) is not None
