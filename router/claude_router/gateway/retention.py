"""Old requests become sums by day, team and model: whose conversations they were in is forgotten then."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from claude_router.gateway.flags import LOST, UNMETERED

DAY_SECONDS = 86_400.0
_MOST_AT_ONCE = 2000
"""Rows in one transaction: requests that run meanwhile wait for it."""

DAY = "strftime('%Y-%m-%d', began, 'unixepoch')"
_UNPRICED = f"(flags LIKE '%{LOST}%' OR flags LIKE '%{UNMETERED}%')"
SUMS = f"""count(*) AS requests, sum(ended IS NULL) AS running, sum({_UNPRICED}) AS unpriced,
    sum(input + cache_read + cache_write_5m + cache_write_1h) AS input, sum(output) AS output,
    sum(cache_read) AS cache_read, sum(cache_write_5m + cache_write_1h) AS cache_write, sum(cost) AS cost"""
"""Of requests; in the order of `claude_router.gateway.usage.Used`."""
KEPT = "requests, 0 AS running, unpriced, input, output, cache_read, cache_write, cost"
"""The same of the table `days`."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS days (
    day TEXT NOT NULL, team TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL, unpriced INTEGER NOT NULL,
    input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL,
    cost REAL NOT NULL, PRIMARY KEY (day, team, model)
) WITHOUT ROWID;
"""
_OLD = "SELECT id FROM requests WHERE began < :before AND ended IS NOT NULL ORDER BY began, id LIMIT :most"
_FOLD = f"""
INSERT INTO days (day, team, model, requests, unpriced, input, output, cache_read, cache_write, cost)
SELECT day, team, model, requests, unpriced, input, output, cache_read, cache_write, cost
FROM (SELECT {DAY} AS day, team, model, {SUMS} FROM requests WHERE id IN ({_OLD}) GROUP BY 1, 2, 3) WHERE true
ON CONFLICT (day, team, model) DO UPDATE SET
    requests = days.requests + excluded.requests, unpriced = days.unpriced + excluded.unpriced,
    input = days.input + excluded.input, output = days.output + excluded.output,
    cache_read = days.cache_read + excluded.cache_read, cache_write = days.cache_write + excluded.cache_write,
    cost = days.cost + excluded.cost
"""
_FORGET = f"DELETE FROM requests WHERE id IN ({_OLD})"


def day_of(when: float) -> str:
    """`2030-01-31`, in UTC."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d")


def oldest_kept(now: float, days: int) -> float:
    """The midnight (UTC) that requests have to have begun after, to be kept one by one."""
    return (now - days * DAY_SECONDS) // DAY_SECONDS * DAY_SECONDS


def fold(db: sqlite3.Connection, before: float, most: int = _MOST_AT_ONCE) -> bool:
    """Fold the oldest requests that began before then, in one transaction; whether there may be more.

    Raises sqlite3.Error, and then nothing has changed.
    """
    chosen = {"before": before, "most": most}
    with db:
        db.execute(_FOLD, chosen)
        return db.execute(_FORGET, chosen).rowcount == most
