"""What each team has used on each of the last days, in memory: the ledger's sums, and what was added since."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from claude_router.gateway.retention import day_of
from claude_router.gateway.scan import Counted
from claude_router.gateway.usage import Used

KEPT_SECONDS = 40 * 86_400.0
"""More than the longest period."""


class Spending:
    """See the module. Belongs to the event loop."""

    def __init__(self, earlier: Iterable[tuple[str, str, Used]] = ()) -> None:
        self._days: dict[str, dict[str, Used]] = {}
        self._listeners: list[Callable[[str], None]] = []
        for team, day, used in earlier:
            self._days.setdefault(team, {})[day] = used

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have it called with the team's name at every addition."""
        self._listeners.append(listener)

    def add(self, team: str, when: float, counted: Counted, cost: float) -> None:
        """A request that began then has used so much."""
        days = self._days.setdefault(team, {})
        day = day_of(when)
        if day not in days:
            oldest = day_of(when - KEPT_SECONDS)
            for old in [known for known in days if known < oldest]:
                del days[old]
        days[day] = added(days.get(day, Used(team)), counted, cost)
        for listener in self._listeners:
            listener(team)

    def since(self, team: str, start: float) -> Used:
        """The team's sum of the days from that of `start` on."""
        first = day_of(start)
        return total(team, [used for day, used in self._days.get(team, {}).items() if day >= first])


def added(used: Used, counted: Counted, cost: float) -> Used:
    """The sum with one request more."""
    written = counted.cache_write_5m + counted.cache_write_1h
    more = Used("", 1, 0, 0, counted.prompt, counted.output, counted.cache_read, written, cost)
    return total(used.key, [used, more])


def total(key: str, parts: Iterable[Used]) -> Used:
    """All of them in one, under that key."""
    found = list(parts)
    return Used(
        key,
        sum(p.requests for p in found),
        0,
        0,
        sum(p.input_tokens for p in found),
        sum(p.output_tokens for p in found),
        sum(p.cached_tokens for p in found),
        sum(p.cache_write_tokens for p in found),
        sum(p.cost_usd for p in found),
    )
