"""What it holds in memory, and how a thousand conversations that sleep are listed."""

from __future__ import annotations

import statistics
import time
import uuid
from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from bench.report import Figure, Goal, Limit, Report
from bench.turns import shim_of
from claude_crds.names import session_name
from claude_router.local import records
from claude_router.local.records import Record
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
            listed, page, whole = _pages(server)
            many = resident_bytes(server.process.pid)
    if listed != conversations:
        raise RuntimeError(f"{listed} of {conversations} conversations were listed")
    each = (many - none) / conversations / 1024
    goal = Goal(f"at most {_EACH_KIB:g} KiB each", each <= _EACH_KIB)
    what = f"router with {conversations:,} suspended conversations"
    report.add(Figure("memory", what, many / _MIB, "MiB", Limit("with none", none / _MIB), goal))
    report.add(Figure("memory", f"a page of {_PAGE} of them listed, p50", page, "ms"))
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
    folder = sessions / "sessions"
    folder.mkdir(parents=True)
    now = time.time()
    for number in range(count):
        name = f"sleeping-{number}"
        record = Record(LOCAL_TENANT, name, str(uuid.uuid4()), created=now, last_active=now, turns=3)
        (folder / f"{session_name(LOCAL_TENANT, name)}.json").write_bytes(records.encode(record))
    return serving(model, sessions, POOL_SIZE="1", WARM_WORKERS="0")


def _pages(server: Server) -> tuple[int, float, float]:
    """How many conversations are listed, ms for a page of them (median), and for all pages."""
    with closing(HTTPConnection(urlsplit(server.url).netloc)) as connection:
        taken = [_page(connection, "")[2] for _ in range(_REPEATS)]
        seen, after, began = 0, "", time.perf_counter()
        while True:
            count, after, _ = _page(connection, after)
            seen += count
            if not after:
                return seen, statistics.median(taken), (time.perf_counter() - began) * 1000


def _page(connection: HTTPConnection, after: str) -> tuple[int, str, float]:
    """How many one page holds, where the next begins ("" when there is none), and the ms it took."""
    began = time.perf_counter()
    connection.request("GET", f"/conversations?limit={_PAGE}&after={quote(after)}")
    answer = connection.getresponse()
    body = answer.read()
    taken = (time.perf_counter() - began) * 1000
    if answer.status != 200:
        raise RuntimeError(f"GET /conversations: {answer.status} {body[:300]!r}")
    page = msgspec.json.decode(body)
    return len(page["data"]), page["last_id"] if page["has_more"] else "", taken
