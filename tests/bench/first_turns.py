"""The first turn of a conversation: on a warm spare, and of a bare CLI that was booted before."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import closing
from pathlib import Path

import httpx

from bench.barecli import BareCli, bare_cli
from bench.load import Connection, Timed, on_loop
from bench.processes import until_still
from bench.report import Report
from bench.turns import PROMPT, add, prepared
from local.harness import Model, cli_pid, scripted_model
from local.server import Server, serving

_GOAL_MS = 30.0


def measure(report: Report, folder: Path, *, rounds: int) -> None:
    """All figures of first turns."""
    with (
        scripted_model() as model,
        serving(model, folder / "new-sessions", POOL_SIZE="3", WARM_WORKERS="1") as server,
    ):
        on_loop(_new(report, model, server, folder, rounds))


async def _new(report: Report, model: Model, server: Server, folder: Path, rounds: int) -> None:
    mine: list[Timed] = []
    limit: list[Timed] = []
    for i in range(rounds):
        async with bare_cli(model, folder / f"new-{i}") as bare:
            for which in (mine, limit) if i % 2 else (limit, mine):
                await _at_rest(server, bare)
                if which is mine:
                    mine.append(await _first_turn(server, f"new-{i}"))
                else:
                    # `initialize` is sent just then, as for a spare: it carries the conversation's system prompt.
                    limit.append(await bare.turn(PROMPT, initialize=True))
    for name, ours, theirs in (
        ("first content", [t.first for t in mine], [t.first for t in limit]),
        ("whole turn", [t.whole for t in mine], [t.whole for t in limit]),
    ):
        value, other = (statistics.median(seconds) * 1000 for seconds in (ours, theirs))
        add(report, f"new conversation on a warm spare, {name}, p50", value, other, _GOAL_MS)


async def _at_rest(server: Server, bare: BareCli) -> None:
    """Nothing boots or ends: the server has its spare and nothing else, and that and the bare CLI have booted."""
    await until_still(bare.pid)
    while True:
        await asyncio.to_thread(server.until, live=1, warm=1)
        spare = await asyncio.to_thread(cli_pid, server.process.pid)
        try:
            await until_still(spare)
        except OSError:  # it was a child that the CLI had forked and that did not yet run its own program
            continue
        return


async def _first_turn(server: Server, conversation: str) -> Timed:
    with closing(await Connection.open(server.url)) as connection:
        timed = await connection.send(prepared(server, conversation))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        (await client.delete(f"/conversations/{conversation}", params={"purge": "true"})).raise_for_status()
    return timed
