"""How much a team may do at this moment: requests in a minute, turns and conversations at a time, money in a period.

No I/O, and the time is given with each call (Unix seconds). What is counted here is counted by this router alone; the
number of conversations and the budget are those of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from claude_router import team_errors as errors
from claude_router.teams import TeamPolicy

Count = Callable[[str, Collection[str]], int]
"""See `claude_router.sessions.Sessions.count`."""

_MINUTE = 60.0


class Bucket:
    """As many requests as a minute's may come at once; then one each time that one more has become free."""

    __slots__ = ("_at", "_level")

    def __init__(self, limit: int, now: float) -> None:
        self._level = float(limit)
        self._at = now

    def take(self, limit: int, now: float) -> float:
        """0.0: taken. Else the seconds until the next one is free; then nothing was taken."""
        self._fill(limit, now)
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) * _MINUTE / limit

    def left(self) -> int:
        """How many could be taken at once."""
        return int(self._level)

    def full_in(self, limit: int) -> float:
        """Seconds until it is as at the beginning."""
        return (limit - self._level) * _MINUTE / limit

    def _fill(self, limit: int, now: float) -> None:
        # A clock that is put back takes nothing away.
        self._level = min(float(limit), self._level + max(0.0, now - self._at) * limit / _MINUTE)
        self._at = now


class _Team:
    """What this router knows of one team."""

    __slots__ = ("begun", "bucket", "turns")

    def __init__(self) -> None:
        self.bucket: Bucket | None = None
        self.turns = 0
        self.begun: dict[str, int] = {}
        """Names of conversations that requests here begin, and how many each; some of them may be there by now."""


class Held:
    """What one request holds of its team's limits, until `release`."""

    __slots__ = ("_begun", "_team", "_turn")

    def __init__(self, team: _Team) -> None:
        self._team = team
        self._turn = False
        self._begun = ""

    def turn(self, policy: TeamPolicy) -> None:
        """A turn begins. Raises ApiError (429)."""
        limit = policy.max_concurrent_turns
        if limit is not None and self._team.turns >= limit:
            raise errors.too_many_turns(limit)
        self._team.turns += 1
        self._turn = True

    def conversation(self, policy: TeamPolicy, name: str, count: Count) -> None:
        """The conversation of that object name is to be used, and begun if it is not there. Raises ApiError (429)."""
        limit = policy.max_sessions
        if limit is None:
            return
        begun = self._team.begun
        before = count(policy.team, begun)
        if name not in begun:
            new = count(policy.team, (*begun, name)) > before
            if not new:
                return
            if before >= limit:
                raise errors.too_many_sessions(limit)
        begun[name] = begun.get(name, 0) + 1
        self._begun = name

    def release(self) -> None:
        """The request is over. May be called again."""
        if self._turn:
            self._turn = False
            self._team.turns -= 1
        if self._begun:
            name, self._begun = self._begun, ""
            begun = self._team.begun
            if begun[name] == 1:
                del begun[name]
            else:
                begun[name] -= 1


class Limits:
    """The limits of all teams, as far as requests here have touched them."""

    def __init__(self) -> None:
        self._teams: dict[str, _Team] = {}

    def request(self, policy: TeamPolicy, now: float) -> Mapping[str, str]:
        """A request comes: the headers that its answer is to have. Raises ApiError (429)."""
        limit = policy.requests_per_minute
        if limit is None:
            return {}
        team = self._team(policy)
        if team.bucket is None:
            team.bucket = Bucket(limit, now)
        wait = team.bucket.take(limit, now)
        headers = {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(team.bucket.left()),
            "x-ratelimit-reset-requests": span(team.bucket.full_in(limit)),
        }
        if wait:
            raise errors.rate_limit_exceeded(limit, wait, headers)
        return headers

    def budget(self, policy: TeamPolicy, now: float) -> Mapping[str, str]:
        """Money is about to be spent: the headers that the answer is to have. Raises ApiError (429)."""
        state = policy.spent(now)
        if state == "exceeded":
            raise errors.budget_exceeded(policy.resets, now)
        return {errors.BUDGET_HEADER: state} if state else {}

    def hold(self, policy: TeamPolicy) -> Held:
        """For one request; nothing is held yet."""
        return Held(self._team(policy))

    @contextmanager
    def beginning(self, policy: TeamPolicy, name: str, count: Count) -> Iterator[None]:
        """A conversation is used, and begun if it is not there, while the block runs. Raises ApiError (429)."""
        held = self.hold(policy)
        held.conversation(policy, name, count)
        try:
            yield
        finally:
            held.release()

    def turns(self, team: str) -> int:
        """How many turns of the team run here."""
        found = self._teams.get(team)
        return found.turns if found else 0

    def _team(self, policy: TeamPolicy) -> _Team:
        return self._teams.setdefault(policy.team, _Team())


def span(seconds: float) -> str:
    """As OpenAI writes a duration in these headers: `850ms`, `12s`, `1m3s`."""
    if seconds < 1.0:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
