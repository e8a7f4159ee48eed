"""How teams share a pool, for one decision of `decide`: who is next, who has room, who makes way. Pure.

A team's share is its limit, or the pool's size where it has none. What counts against it are its workers in use: busy,
starting or waited for. Idle ones can make way, so that a team keeps them does not cost it its turn.

Laws beside those of `decide`, each held by a test of `tests/operator/test_decide_teams.py`:

10. Turns. The next room goes to the waiting team that has the fewest workers in use for its share; of several to the
    one whose use of a worker ended the longest ago, and then to who came first. Within a team law 3 holds. So however
    many of one team wait, it gets one slot at most before the first of a team that has none in use.
11. Limit. Laws 1, 4, 5 and 7 hold for each team and its limit, too: at it, a team waits though the pool has room, and
    its own idle workers make way for it. Nobody else waits because of that, or goes without a spare.
12. Yield. Those who make way for others are first the idle workers by which teams have more than their part of the
    pool (its size by their shares), the least recently active first; and then the other idle ones, in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from claude_operator.decide import Policy, Session, Worker

_TEAM = attrgetter("team")


class Turns:
    """What has to be remembered between decisions, or a small pool is always free of whoever came first: `ended`.

    It can be lost: then of teams that have the same of their share, the one that came first is next, once.
    """

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}
        """By team, when a worker of it was last seen to be in use no more. For `Policy.ended`."""
        self._used: dict[str, str] = {}

    def look(self, sessions: Iterable[Session], workers: Iterable[Worker], now: float) -> None:
        """Before each decision, on what it is made of."""
        of = {s.name: (s.team, s.waiting_since is not None) for s in sessions}
        used = {}
        for w in workers:
            team, waited_for = of.get(w.session or "", ("", False))
            if w.session is not None and (w.busy or waited_for or w.state == "starting"):
                used[w.name] = team
        self.ended.update((team, now) for name, team in self._used.items() if name not in used)
        self._used = used


class Shares:
    """Of `workers`, all of them, `staying` do not leave, and `idle` are those of them that may be evicted.

    With one team and no limit of its own nothing is shared: then nothing is counted, and nothing changes.
    """

    def __init__(
        self,
        policy: Policy,
        sessions: Sequence[Session],
        workers: Sequence[Worker],
        staying: Sequence[Worker],
        idle: Sequence[Worker],
    ) -> None:
        size, limits, teams = policy.size, policy.shares, set(map(_TEAM, sessions))
        self._shared = len(teams) > 1 or not teams.isdisjoint(limits)
        if not self._shared:
            return
        self._size, self._ended = size, policy.ended
        self._of: dict[str | None, str] = {s.name: s.team for s in sessions}
        has = self._count(workers)
        self._used = self._count(staying)
        self._used.subtract(self._count(idle))
        present = {s.team for s in sessions if s.waiting_since is not None} | has.keys()
        self._limits = {team: limits[team] for team in present if team in limits}
        self._room = {team: limit - has[team] for team, limit in self._limits.items()}
        self._share = {team: max(1, min(limits.get(team, size), size)) for team in present}

    def line(self, arrived: Sequence[Session]) -> tuple[Sequence[Session], Sequence[Session]]:
        """The line, the team with the least of its share first; and, apart, those whose team has all it may have.

        `arrived` are those who wait, as they came; within a team that stays their order.
        """
        if not self._shared:
            return arrived, ()
        used, line, full = self._used.copy(), [], []
        for session in arrived:
            team = session.team
            if used[team] >= self._limits.get(team, inf):
                full.append(session)
            else:
                line.append((used[team] / self._share[team], self._ended.get(team, -inf), session))
                used[team] += 1
        line.sort(key=lambda placed: placed[:2])
        return [session for *_, session in line], full

    def take(self, session: Session) -> bool:
        """Whether the session's team may have one more worker now, its leaving ones counted; then that is taken."""
        if not self._shared or session.team not in self._room:
            return True
        self._room[session.team] -= 1
        return self._room[session.team] >= 0

    def above_limit(self, idle: Sequence[Worker], admitted: Sequence[Session]) -> Sequence[Worker]:
        """Those of the idle that their own team has no room for beside its `admitted`: first in `idle`, first to go."""
        if not self._shared or not self._limits:
            return ()
        live = self._live(idle, admitted)
        above = {team: live[team] - limit for team, limit in self._limits.items()}
        going = []
        for worker in idle:
            team = self._team(worker)
            if above.get(team, 0) > 0:
                above[team] -= 1
                going.append(worker)
        return going

    def making_way(self, idle: Sequence[Worker], admitted: Sequence[Session]) -> Sequence[Worker]:
        """The idle in the order in which they make way: those by which teams are over their part of the pool first."""
        if not self._shared:
            return idle
        live, shares = self._live(idle, admitted), sum(self._share.values())
        over = {team: n - self._size * self._share[team] // shares for team, n in live.items() if team in self._share}
        first: list[Worker] = []
        then: list[Worker] = []
        for worker in idle:
            team = self._team(worker)
            over[team] -= 1
            (first if over[team] >= 0 else then).append(worker)
        return first + then

    def _live(self, idle: Iterable[Worker], admitted: Iterable[Session]) -> Counter[str]:
        """What each team has, and will have: its workers in use, those that it is to get, and the idle ones."""
        live = self._used + self._count(idle)
        live.update(session.team for session in admitted)
        return live

    def _count(self, workers: Iterable[Worker]) -> Counter[str]:
        return Counter(self._team(w) for w in workers if w.session is not None)

    def _team(self, worker: Worker) -> str:
        return self._of.get(worker.session, "")
