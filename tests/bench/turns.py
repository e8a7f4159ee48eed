"""A turn through router and worker against the CLI's own, hot and on a warm spare; and against a process a turn."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.barecli import BareCli
from bench.load import Connection, Timed, chat_body, percentile, request
from bench.report import Figure, Report
from claude_worker.cli import find_cli
from local.harness import ROOT, Model, clean_environment, eventually, scripted_model
from local.server import Server, free_port, serving

PROMPT = "::say hello there"
PEER = ROOT / ".tools" / "npm" / "node_modules" / ".bin" / "claude-max-api"
_BOOT_SECONDS = 1.5
"""A booted process says nothing before `initialize`; by then it has long settled (0.4 s on an idle machine)."""


def _prepared(server: Server, conversation: str) -> bytes:
    return request(server.url, chat_body(PROMPT), {"X-Conversation-ID": conversation})


def _ms(values: Sequence[float], share: float) -> float:
    return percentile(values, share) * 1000


async def _hot(report: Report, model: Model, server: Server, folder: Path, rounds: int) -> None:
    bare = BareCli(model, folder / "hot")
    await bare.boot()
    connection = Connection(server.url)
    await connection.open()
    prepared = _prepared(server, "hot")
    await bare.turn(PROMPT, initialize=True)
    await connection.send(prepared)
    limit: list[float] = []
    ours: list[float] = []
    for i in range(rounds + 5):
        # In turns, so that a machine whose speed drifts does so for both; each in front every other time.
        for which in (limit, ours) if i % 2 else (ours, limit):
            timed = await bare.turn(PROMPT) if which is limit else await connection.send(prepared)
            if i >= 5:
                which.append(timed.whole)
            await asyncio.sleep(0.02)
    connection.close()
    await bare.close()
    for name, share, goal in (("p50", 0.5, 5), ("p90", 0.9, 0), ("p99", 0.99, 10)):
        added = _ms(ours, share) - _ms(limit, share)
        report.add(Figure("turn", f"hot turn {name}, router and worker", _ms(ours, share), "ms",
                          f"bare CLI {_ms(limit, share):.1f} ms ({added:+.1f})", f"+{goal} ms" if goal else "",
                          added <= goal if goal else None))  # fmt: skip


async def _new(report: Report, model: Model, server: Server, folder: Path, rounds: int) -> None:
    limit: list[Timed] = []
    ours: list[Timed] = []
    for i in range(rounds):
        bare = BareCli(model, folder / f"new{i}")
        await bare.boot()
        await asyncio.to_thread(server.until, warm=1)
        await asyncio.sleep(_BOOT_SECONDS)
        limit.append(await bare.turn(PROMPT, initialize=True))
        await bare.close()
        connection = Connection(server.url)
        await connection.open()
        ours.append(await connection.send(_prepared(server, f"new-{i}")))
        connection.close()
    for name, get in (("first token", lambda t: t.first), ("whole turn", lambda t: t.whole)):
        mine = statistics.median(map(get, ours)) * 1000
        floor = statistics.median(map(get, limit)) * 1000
        aim = name == "first token"
        report.add(Figure("turn", f"new conversation on a warm spare, {name} p50", mine, "ms",
                          f"bare CLI booted {floor:.1f} ms ({mine - floor:+.1f})", "+30 ms" if aim else "",
                          mine - floor <= 30 if aim else None))  # fmt: skip


@contextmanager
def _peer(model: Model, folder: Path) -> Iterator[str]:
    """claude-max-api-proxy, which starts the `claude` on its PATH for every turn."""
    (folder / "bin").mkdir()
    (folder / "bin" / "claude").symlink_to(find_cli())
    port = free_port()
    env = clean_environment(model.environment())
    env["PATH"] = f"{folder / 'bin'}:{env['PATH']}"
    running = subprocess.Popen([str(PEER), str(port)], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _listens(port), 60)
        yield url
    finally:
        running.terminate()
        running.communicate(timeout=30)


def _listens(port: int) -> bool:
    import socket  # noqa: PLC0415

    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def _against_peer(report: Report, url: str, rounds: int) -> None:
    connection = Connection(url)
    await connection.open()
    body = chat_body(PROMPT) | {"model": "claude-sonnet-4"}
    taken = [(await connection.send(request(url, body))).whole for _ in range(rounds + 1)][1:]
    connection.close()
    ours = next(f.value for f in report.figures if f.what.startswith("hot turn p50"))
    report.add(Figure("turn", "peer: claude-max-api-proxy, a process a turn, p50", _ms(taken, 0.5), "ms",
                      f"router and worker {ours:.1f} ms"))  # fmt: skip


def measure(report: Report, folder: Path, *, peers: bool, hot: int, new: int) -> None:
    """All figures of turns; `hot` and `new` are how many rounds of each."""
    with scripted_model() as model:
        with serving(model, folder / "sessions", POOL_SIZE="100", WARM_WORKERS="1", IDLE_TIMEOUT_MS="4000") as server:
            asyncio.run(_new(report, model, server, folder, new))
        with serving(model, folder / "hot-sessions", POOL_SIZE="2", WARM_WORKERS="0") as server:
            asyncio.run(_hot(report, model, server, folder, hot))
        if peers:
            with _peer(model, folder) as url:
                asyncio.run(_against_peer(report, url, 15))
