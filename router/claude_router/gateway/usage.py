"""What was used, from the ledger: by day, team, session or model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from claude_router.gateway.ledger import connect
from claude_router.gateway.retention import DAY, DAY_SECONDS, KEPT, SUMS, day_of

By = Literal["day", "team", "session", "model"]
BY: tuple[By, ...] = get_args(By)
MOST_ROWS = 10_000

_KEYS: dict[By, str] = {"day": DAY, "team": "team", "session": "session", "model": "model"}


class Used(msgspec.Struct, frozen=True):
    """A sum. `input_tokens` holds cached ones as well; `cost_usd` is at list prices.

    `unpriced` requests are in no other figure: their gateway died, or the API said nothing. `running` have not ended.
    """

    key: str = ""
    requests: int = 0
    running: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0


_ADDED = """sum(requests), sum(running), sum(unpriced), sum(input), sum(output), sum(cache_read), sum(cache_write),
    sum(cost)"""


def used(
    path: Path, by: By, *, since: float | None = None, until: float | None = None, team: str = "", session: str = ""
) -> list[Used]:
    """One sum a key, in order of keys, of requests that began from `since` until before `until` (Unix time). Blocks.

    Days that are kept as sums count whole, and for no session. Raises sqlite3.Error. At most MOST_ROWS.
    """
    conditions = {"began >= ?": since, "began < ?": until, "team = ?": team or None, "session = ?": session or None}
    rows, values = _chosen(f"SELECT {_KEYS[by]} AS key, {SUMS} FROM requests", conditions, "GROUP BY 1")
    if by != "session" and not session:
        first, last = (None if time is None else day_of(time) for time in (since, until))
        # A day that `until` is in the middle of has begun before it.
        before = "day <= ?" if until is not None and until % DAY_SECONDS else "day < ?"
        kept, more = _chosen(
            f"SELECT {by} AS key, {KEPT} FROM days", {"day >= ?": first, before: last, "team = ?": team or None}
        )
        rows, values = f"{rows} UNION ALL {kept}", [*values, *more]
    query = f"SELECT key, {_ADDED} FROM ({rows}) GROUP BY key ORDER BY key LIMIT {MOST_ROWS}"
    with contextlib.closing(connect(path)) as db:
        return [Used(*row) for row in db.execute(query, values)]


def _chosen(select: str, conditions: Mapping[str, object], rest: str = "") -> tuple[str, list[object]]:
    """The query with those conditions that have a value, and the values."""
    chosen = {text: value for text, value in conditions.items() if value is not None}
    where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
    return f"{select} {where} {rest}", list(chosen.values())


def by_team_and_day(path: Path, since: float) -> Iterator[tuple[str, str, Used]]:
    """(team, day, sum) of all requests that began from `since` on. Blocks."""
    query = f"""SELECT team, day, {_ADDED} FROM (
        SELECT team, {DAY} AS day, {SUMS} FROM requests WHERE began >= ? GROUP BY 1, 2
        UNION ALL SELECT team, day, {KEPT} FROM days WHERE day >= ?) GROUP BY team, day"""
    with contextlib.closing(connect(path)) as db:
        for team, day, *sums in db.execute(query, (since, day_of(since))):
            yield team, day, Used(team, *sums)


def last_sessions(path: Path, seconds: float) -> list[str]:
    """The sessions of requests that began at most so long before the last one did. Blocks. Raises sqlite3.Error."""
    query = "SELECT DISTINCT session FROM requests WHERE began >= (SELECT max(began) FROM requests) - ?"
    with contextlib.closing(connect(path)) as db:
        return [session for (session,) in db.execute(query, (seconds,))]


def of_session(path: Path, session: str, since: float, until: float) -> Used:
    """The sum of a session's requests that began from `since` until before `until`. Blocks. Raises sqlite3.Error."""
    found = used(path, "session", since=since, until=until, session=session)
    return found[0] if found else Used(session)
