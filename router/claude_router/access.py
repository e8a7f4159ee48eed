"""Who asks, and for which team: the door that every request with a key goes through.

A team's key names its team. The endpoint's own keys (API_KEYS) name none, and neither does a request to an open
endpoint: these are nobody's, of the tenant `LOCAL_TENANT`. As soon as there is a team or a team's key, a request needs
a key. An admin's key may act for another team, which the header `X-Claude-Team` names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import Scope

from claude_crds.apikeys import KeyRing
from claude_router import team_errors as errors
from claude_router.answer import HeaderList
from claude_router.auth import ApiKeys, given_key
from claude_router.limits import Limits
from claude_router.sessions import LOCAL_TENANT
from claude_router.teams import NOBODYS, TeamPolicy, Teams

TEAM_HEADER = b"x-claude-team"
ALL = "*"
"""What an admin names to see all teams' conversations."""
_SCOPE_KEY = "claude_grant"
_SCOPE_TENANT = "claude_tenant"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key it is. `key_id` is empty for a key that is no team's, and for none."""

    team: str
    key_id: str = ""
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may do: who asks, and the policy of the team that it acts for. `teams`: there are any."""

    caller: Caller
    policy: TeamPolicy
    teams: bool = True

    @property
    def tenant(self) -> str:
        """Whose conversations it is about."""
        return self.policy.team

    @property
    def shown(self) -> str:
        """The team as logs and metrics name it; empty where there are none."""
        return self.policy.team if self.teams else ""

    @property
    def admin(self) -> bool:
        return self.caller.admin


OPEN = Grant(Caller(LOCAL_TENANT), NOBODYS, teams=False)
"""For every request while there are no teams."""


@dataclass(slots=True)
class TeamSide:
    """Teams and their keys, as some other part keeps them. `required`: a key is needed even while there is none.

    `ready` says whether they have been read; before that, it is not known whether the endpoint is open.
    """

    teams: Teams
    ring: KeyRing = field(default_factory=KeyRing)
    required: bool = False
    ready: Callable[[], bool] = lambda: True

    @property
    def closed(self) -> bool:
        """Whether requests need a key because of them."""
        return self.required or len(self.teams) > 0 or len(self.ring) > 0


class Access:
    """The door. Without a team side it knows the endpoint's own keys only."""

    def __init__(self, keys: ApiKeys, side: TeamSide | None = None, *, now: Callable[[], float] = time.time) -> None:
        """`now` is Unix time."""
        self.limits = Limits()
        self.now = now
        self._keys = keys
        self._side = side

    @property
    def open(self) -> bool:
        """Whether everybody may use the endpoint."""
        return self._keys.open and (self._side is None or not self._side.closed)

    def enter(self, headers: Mapping[bytes, bytes]) -> Grant:
        """Pass a request (header names in lower case). Raises ApiError (401, 403, 503)."""
        side = self._side
        if side is None:
            self._keys.check(headers)
            return OPEN
        if not side.ready():
            raise errors.teams_unknown()
        if not side.closed:
            self._keys.check(headers)
            return OPEN
        record = side.ring.check(given_key(headers).decode("latin-1"), self.now())
        if record is None:
            self._keys.check(headers, required=True)
            grant = Grant(Caller(LOCAL_TENANT), side.teams.of_nobody())
        else:
            policy = side.teams.policy(record.team)
            if policy is None:
                raise errors.team_not_found(record.team)
            grant = Grant(Caller(record.team, record.id, policy.admin), policy)
        asked = headers.get(TEAM_HEADER)
        return self.acting_for(grant, asked.decode("latin-1").strip()) if asked else grant

    def whose(self, headers: Mapping[bytes, bytes]) -> Grant | None:
        """Whose valid key the request has, also where `enter` refuses it; for logs, and good for nothing else."""
        record = self._side.ring.check(given_key(headers).decode("latin-1"), self.now()) if self._side else None
        return Grant(Caller(record.team, record.id), TeamPolicy(record.team)) if record else None

    def admit(self, grant: Grant) -> HeaderList:
        """A request of a team comes that a worker is to see: the headers of its answer. Raises ApiError (429)."""
        return _raw(self.limits.request(grant.policy, self.now()))

    def admit_turn(self, grant: Grant) -> HeaderList:
        """The same for one that spends money."""
        now = self.now()
        headers = self.limits.request(grant.policy, now)
        return _raw({**headers, **self.limits.budget(grant.policy, now)})

    def acting_for(self, grant: Grant, team: str) -> Grant:
        """The grant for that team's conversations. Raises ApiError (403)."""
        if self._side is None or not grant.teams or team in ("", grant.tenant):
            return grant
        if not grant.admin:
            raise errors.team_not_allowed()
        teams = self._side.teams
        policy = teams.of_nobody() if team == LOCAL_TENANT else teams.policy(team)
        if policy is None:
            raise errors.team_not_found(team)
        return Grant(grant.caller, policy)


def _raw(headers: Mapping[str, str]) -> HeaderList:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def let_in(scope: Scope, grant: Grant) -> None:
    """The request of this scope has been passed."""
    scope[_SCOPE_KEY] = grant


def look_at(scope: Scope, tenant: str | None) -> None:
    """The request of this scope asks for what is that tenant's; None: everybody's."""
    scope[_SCOPE_TENANT] = ALL if tenant is None else tenant


def looked_at(scope: Scope) -> str | None:
    """Whose things it asked for, if it named anybody's."""
    return scope.get(_SCOPE_TENANT)


def grant_of(scope: Scope) -> Grant:
    """What the request may do. Raises KeyError for one that has not been passed: then no conversation is its own."""
    found: Grant = scope[_SCOPE_KEY]
    return found


def known_grant(scope: Scope) -> Grant | None:
    """The same; None for one that has not been passed."""
    return scope.get(_SCOPE_KEY)
