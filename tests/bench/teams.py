"""What sharing costs: a key looked up among many, and one team's conversations listed among everybody's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from bench.report import Figure, Goal, Limit, Report
from bench.sleepers import lay_down, listed
from claude_crds.apikeys import KeyRecord, KeyRing, encode_file, make
from local.harness import Model, scripted_model
from local.server import Server, serving

_FEW = 10
_TEAM = "team-0"
_TEAMS = 10
_SAMPLES = 2000
_WARM_UP = 200
_REPEATS = 20
_PAGE = 1000
_LIST_MS = 50.0
_MOST_TIMES = 2.0
"""Of the time among few keys, that among many may take; a walk over all of them would take hundreds of times."""


def measure(report: Report, folder: Path, *, keys: int, conversations: int) -> None:
    """All figures of teams."""
    _look_up(report, keys)
    with scripted_model() as model, _shared(model, folder / "teams", conversations) as (server, key):
        seen, taken = _listed(server, key)
    mine = conversations // _TEAMS
    if seen != mine:
        raise RuntimeError(f"{seen} of the team's {mine} conversations were listed")
    goal = Goal(f"at most {_LIST_MS:g} ms", taken <= _LIST_MS)
    what = f"one team's {mine:,} conversations listed, of {conversations:,}, p50"
    report.add(Figure("teams", what, taken, "ms", None, goal))


def _look_up(report: Report, many: int) -> None:
    among = {count: _seconds_for_one(count) * 1e6 for count in (_FEW, many)}
    goal = Goal(f"at most {_MOST_TIMES:g} times", among[many] <= _MOST_TIMES * among[_FEW])
    report.add(Figure("teams", f"a key looked up among {many:,}, p50", among[many], "µs",
                      Limit(f"among {_FEW}", among[_FEW]), goal))  # fmt: skip


def _seconds_for_one(count: int) -> float:
    """Median of a look-up among so many keys, of a key that is there."""
    ring, found = KeyRing(), dict(_made(count))
    ring.replace({record.id: record for record in found.values()})
    texts = list(found)
    taken = []
    for number in range(_WARM_UP + _SAMPLES):
        text = texts[number % len(texts)]
        began = time.perf_counter()
        record = ring.check(text, began)
        taken.append(time.perf_counter() - began)
        if record is not found[text]:
            raise RuntimeError("a key was not found")
    return statistics.median(taken[_WARM_UP:])


def _made(count: int) -> Iterator[tuple[str, KeyRecord]]:
    for number in range(count):
        yield make(f"team-{number % _TEAMS}", f"key-{number}", 0.0, None)


@contextmanager
def _shared(model: Model, place: Path, conversations: int) -> Iterator[tuple[Server, str]]:
    """A server with the suspended conversations of several teams, and a key of one of these."""
    lay_down(place, conversations, lambda number: f"team-{number % _TEAMS}")
    key, record = make(_TEAM, "bench", time.time(), None)
    file = place / "keys.json"
    file.write_bytes(encode_file({record.id: record}))
    with serving(model, place, POOL_SIZE="1", WARM_WORKERS="0", API_KEYS_FILE=str(file)) as server:
        yield server, key


def _listed(server: Server, key: str) -> tuple[int, float]:
    """How many conversations the key's team has, and the median of the ms in which all of them were listed."""
    with closing(HTTPConnection(urlsplit(server.url).netloc)) as connection:
        found = [listed(connection, limit=_PAGE, key=key) for _ in range(_REPEATS)]
    return found[0][0], statistics.median(taken for _, taken in found)
