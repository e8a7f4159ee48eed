"""What it holds in memory, and how a thousand conversations that sleep are listed."""

from __future__ import annotations

import statistics
from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from bench.report import Figure, Goal, Limit, Report
from bench.sleepers import lay_down, listed, page
from bench.turns import shim_of
from claude_router.sessions import LOCAL_TENANT
from local.harness import Model, chat, cli_pid, content, scripted_model
from local.server import Server, resident_bytes, serving

_MIB = 1024 * 1024
_EACH_KIB = 10.0
_PAGE = 100
_REPEATS = 20


def measure(report: Report, folder: Path, *, conversations: int, turns: int) -> None:
    """All figures of memory; `turns` are how many a worker has behind it."""
    with scripted_model() as model:
        _worker(report, model, folder / "one", turns)
        with _sleeping(model, folder / "none", 0) as server:
            _pages(server)
            none = resident_bytes(server.process.pid)
        with _sleeping(model, folder / "many", conversations) as server:
            seen, first, whole = _pages(server)
            many = resident_bytes(server.process.pid)
    if seen != conversations:
        raise RuntimeError(f"{seen} of {conversations} conversations were listed")
    each = (many - none) / conversations / 1024
    goal = Goal(f"at most {_EACH_KIB:g} KiB each", each <= _EACH_KIB)
    what = f"router with {conversations:,} suspended conversations"
    report.add(Figure("memory", what, many / _MIB, "MiB", Limit("with none", none / _MIB), goal))
    report.add(Figure("memory", f"a page of {_PAGE} of them listed, p50", first, "ms"))
    report.add(Figure("memory", f"all {conversations:,} listed, page by page", whole, "ms"))


def _worker(report: Report, model: Model, sessions: Path, turns: int) -> None:
    """One conversation's processes, and the router beside them."""
    with serving(model, sessions, POOL_SIZE="2", WARM_WORKERS="0") as server, server.client("m") as client:
        router = resident_bytes(server.process.pid)
        report.add(Figure("memory", "router, idle", router / _MIB, "MiB"))
        content(chat(client, "::say hi"))
        cli = cli_pid(server.process.pid)
        shim = shim_of(server, cli)
        first = resident_bytes(shim)
        report.add(Figure("memory", "worker shim after its first turn", first / _MIB, "MiB",
                          Limit("its CLI", resident_bytes(cli) / _MIB)))  # fmt: skip
        for _ in range(turns):
            chat(client, "::say hi", stream=True).raise_for_status()
        for what, pid, before in (("worker shim", shim, first), ("router", server.process.pid, router)):
            report.add(Figure("memory", f"{what} after {turns} more turns", resident_bytes(pid) / _MIB, "MiB",
                              Limit("before them", before / _MIB)))  # fmt: skip


def _sleeping(model: Model, sessions: Path, count: int) -> AbstractContextManager[Server]:
    """A server that starts with records of `count` suspended conversations, and without a worker."""
    lay_down(sessions, count, lambda _: LOCAL_TENANT)
    return serving(model, sessions, POOL_SIZE="1", WARM_WORKERS="0")


def _pages(server: Server) -> tuple[int, float, float]:
    """How many conversations are listed, ms for a page of them (median), and for all pages."""
    with closing(HTTPConnection(urlsplit(server.url).netloc)) as connection:
        taken = [page(connection, "", limit=_PAGE)[2] for _ in range(_REPEATS)]
        seen, whole = listed(connection, limit=_PAGE)
        return seen, statistics.median(taken), whole
