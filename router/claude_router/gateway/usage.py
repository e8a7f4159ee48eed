"""What was used, from the ledger: by day, team, session or model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import msgspec

from claude_router.gateway.ledger import LOST, UNMETERED, connect

By = Literal["day", "team", "session", "model"]
BY: tuple[By, ...] = get_args(By)
MOST_ROWS = 10_000

_DAY = "strftime('%Y-%m-%d', began, 'unixepoch')"
_KEYS: dict[By, str] = {"day": _DAY, "team": "team", "session": "session", "model": "model"}


class Used(msgspec.Struct, frozen=True, rename="camel"):
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
    cost_usd: float = msgspec.field(default=0.0, name="costUSD")


_UNPRICED = f"(flags LIKE '%{LOST}%' OR flags LIKE '%{UNMETERED}%')"
_SUMS = f"""count(*), sum(ended IS NULL), sum({_UNPRICED}),
    sum(input + cache_read + cache_write_5m + cache_write_1h), sum(output), sum(cache_read),
    sum(cache_write_5m + cache_write_1h), sum(cost)"""


def used(
    path: Path, by: By, *, since: float | None = None, until: float | None = None, team: str = "", session: str = ""
) -> list[Used]:
    """One sum a key, in order of keys, of requests that began from `since` until before `until` (Unix time). Blocks.

    Raises sqlite3.Error. At most MOST_ROWS.
    """
    conditions = {"began >= ?": since, "began < ?": until, "team = ?": team or None, "session = ?": session or None}
    chosen = {text: value for text, value in conditions.items() if value is not None}
    where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
    query = f"SELECT {_KEYS[by]} AS key, {_SUMS} FROM requests {where} GROUP BY key ORDER BY key LIMIT {MOST_ROWS}"
    with contextlib.closing(connect(path)) as db:
        return [Used(*row) for row in db.execute(query, tuple(chosen.values()))]


def by_team_and_day(path: Path, since: float) -> Iterator[tuple[str, str, Used]]:
    """(team, day, sum) of all requests that began from `since` on. Blocks."""
    query = f"SELECT team, {_DAY} AS day, {_SUMS} FROM requests WHERE began >= ? GROUP BY team, day"
    with contextlib.closing(connect(path)) as db:
        for team, day, *sums in db.execute(query, (since,)):
            yield team, day, Used(team, *sums)
