"""The teams that share the endpoint, and what each may do. No I/O: whoever reads them brings them here.

A team without a policy does not exist: its keys are refused. Without a list of teams at all (`Teams(listed=False)`: one
machine, keys but no TEAMS_FILE) every team exists, and is without limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from claude_crds.cache import Change
from claude_crds.objects import condition
from claude_crds.teams import Aspect, bounds, may_ask_for
from claude_crds.views import ClaudeTeam
from claude_router.sessions import LOCAL_TENANT

BudgetState = Literal["", "near", "exceeded"]


@dataclass(frozen=True, slots=True)
class TeamPolicy:
    """What a team may do; a limit that is None is none. `resets`: when a budget's state ends, in Unix seconds."""

    team: str
    pool: str = ""
    """Where its new conversations go; empty: wherever the router's own go."""
    models: tuple[str, ...] = ()
    max_sessions: int | None = None
    max_live: int | None = None
    max_concurrent_turns: int | None = None
    requests_per_minute: int | None = None
    admin: bool = False
    budget: BudgetState = ""
    resets: float = 0.0

    def may_ask_for(self, model: str, offered: Collection[str]) -> bool:
        """Whether the team may ask for this model, which is one of those that are offered, with or without a suffix."""
        return not self.models or may_ask_for(model, self.models, offered)

    def choice(self, offered: Collection[str]) -> list[str]:
        """Those of the offered models that the team may ask for: no other is shown to it."""
        return [model for model in offered if self.may_ask_for(model, offered)]

    def spent(self, now: float) -> BudgetState:
        """How the budget stands. What was said of a period ends with it: the next one begins with nothing spent."""
        return self.budget if now < self.resets else ""


NOBODYS = TeamPolicy(LOCAL_TENANT)
"""For requests that come from no team: nothing is limited."""


def policy_of(team: ClaudeTeam) -> TeamPolicy:
    """The policy that a ClaudeTeam describes, and how its budget stands."""
    spec = team.spec
    budget, resets = _budget(team)
    return TeamPolicy(
        team=team.name,
        pool=team.pool,
        models=spec.models,
        max_sessions=spec.max_sessions,
        max_live=spec.max_live,
        max_concurrent_turns=spec.max_concurrent_turns,
        requests_per_minute=spec.requests_per_minute,
        admin=spec.admin,
        budget=budget,
        resets=resets,
    )


def _budget(team: ClaudeTeam) -> tuple[BudgetState, float]:
    if team.spec.budget is None:
        return "", 0.0
    state: BudgetState
    for aspect, state in ((Aspect.BUDGET_EXCEEDED, "exceeded"), (Aspect.BUDGET_NEAR, "near")):
        found = condition(team.status.conditions, aspect)
        if found is None or found.status != "True":
            continue
        began = team.status.period_start or found.last_transition_time
        # A status without any time is a mistake, and a mistake must not let a team spend.
        return state, bounds(team.spec.budget.period, began.timestamp())[1] if began else float("inf")
    return "", 0.0


class Teams:
    """See the module. Reading is safe from any thread, changing is for one."""

    def __init__(self, *, listed: bool = True) -> None:
        self._listed = listed
        self._policies: Mapping[str, TeamPolicy] = {}

    def __len__(self) -> int:
        return len(self._policies)

    def replace(self, teams: Iterable[ClaudeTeam]) -> None:
        """From now on it is these."""
        self._policies = {team.name: policy_of(team) for team in teams}

    def changed(self, change: Change, old: ClaudeTeam | None, new: ClaudeTeam | None) -> None:
        """See `claude_crds.cache.Listener`."""
        policies = dict(self._policies)
        if old is not None:
            policies.pop(old.name, None)
        if new is not None:
            policies[new.name] = policy_of(new)
        self._policies = policies

    def policy(self, team: str) -> TeamPolicy | None:
        """What the team may do; None: there is no such team."""
        found = self._policies.get(team)
        if found is None and not self._listed:
            return TeamPolicy(team)
        return found

    def of_nobody(self) -> TeamPolicy:
        """For requests with a key that is no team's: those of the team that is called like their tenant, or none."""
        return self._policies.get(LOCAL_TENANT, NOBODYS)

    def shares(self) -> Mapping[str, int]:
        """`maxLive` of each team that has one."""
        return {name: policy.max_live for name, policy in self._policies.items() if policy.max_live is not None}

    def home(self, tenant: str) -> tuple[str, str]:
        """Pool and team of the tenant's new conversations; each empty: the router's own, and none."""
        found = self.policy(tenant) if tenant != LOCAL_TENANT else self._policies.get(LOCAL_TENANT)
        return (found.pool, found.team) if found else ("", "")
