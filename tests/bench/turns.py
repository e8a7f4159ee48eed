"""Turns of a conversation that runs, through router and worker against the CLI's own; and against a process a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.barecli import bare_cli
from bench.load import Connection, Timed, check, on_loop, percentile, request
from bench.processes import cpu_seconds
from bench.report import Figure, Goal, Limit, Report
from local.harness import Model, cli_pid, descendants, find_cli, scripted_model
from local.server import Server, serving

SAID = "hello there"
PROMPT = f"::say {SAID}"
BARE = "bare CLI"

_LONG_CHUNKS = 2000
_LONG_PROMPT = f"::chunks {_LONG_CHUNKS} 20"
_WARM_UP = 5
PAUSE_SECONDS = 0.02
"""Between turns, as between a person's: what the CLI does after its answer is then not part of the next turn."""


def measure(report: Report, folder: Path, *, peer: bool, rounds: int) -> None:
    """All figures of hot turns."""
    with ExitStack() as stack:
        model = stack.enter_context(scripted_model())
        server = stack.enter_context(serving(model, folder / "hot-sessions", POOL_SIZE="2", WARM_WORKERS="0"))
        on_loop(_hot(report, model, server, folder / "hot", rounds))
        if peer:
            report.versions["claude-max-api-proxy"] = peers.max_api_version()
            url = stack.enter_context(peers.max_api(model, folder)).url
            on_loop(_against_peer(report, server, url, max(3, rounds // 20)))


def prepared(server: Server, conversation: str, prompt: str = PROMPT) -> bytes:
    """A request of one conversation."""
    return request(server.url, prompt, {"X-Conversation-ID": conversation})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two who take a turn with a prompt: ours, and the limit."""

    ours: Callable[[str], Awaitable[Timed]]
    theirs: Callable[[str], Awaitable[Timed]]

    async def rounds(self, prompt: str, count: int) -> tuple[list[Timed], list[Timed]]:
        """Both in turns, so that a machine whose speed drifts does so for both; each is first every other time."""
        taken: tuple[list[Timed], list[Timed]] = ([], [])
        for i in range(count):
            for which in (0, 1) if i % 2 else (1, 0):
                taken[which].append(await (self.ours, self.theirs)[which](prompt))
                await asyncio.sleep(PAUSE_SECONDS)
        return taken


async def _hot(report: Report, model: Model, server: Server, folder: Path, rounds: int) -> None:
    await check(server.url, prepared(server, "hot"), SAID)
    async with bare_cli(model, folder) as bare:
        await bare.turn(PROMPT, initialize=True)
        with closing(await Connection.open(server.url)) as connection:
            pair = Pair(lambda prompt: connection.send(prepared(server, "hot", prompt)), bare.turn)
            await pair.rounds(PROMPT, _WARM_UP)
            await _short(report, server, pair, rounds)
            await _back_to_back(report, pair, max(3, rounds // 6))
            await _long(report, pair, max(3, rounds // 20))


async def _short(report: Report, server: Server, pair: Pair, rounds: int) -> None:
    cli = cli_pid(server.process.pid)
    ours = (server.process.pid, shim_of(server, cli))
    before = sum(map(cpu_seconds, ours)), cpu_seconds(cli)
    mine, limit = await pair.rounds(PROMPT, rounds)
    used = sum(map(cpu_seconds, ours)) - before[0], cpu_seconds(cli) - before[1]
    for name, share, goal in (("p50", 0.5, 5.0), ("p90", 0.9, 0.0), ("p99", 0.99, 10.0)):
        add(report, f"hot turn, {name}", _ms(mine, share), _ms(limit, share), goal)
    mine_each, cli_each = (seconds / rounds * 1000 for seconds in used)
    what = "CPU of router and worker shim for a hot turn"
    report.add(Figure("turn", what, mine_each, "ms", Limit("of its CLI", cli_each)))


async def _back_to_back(report: Report, pair: Pair, count: int) -> None:
    """Without pauses, and one side after the other: the turn before must have been the same side's."""
    theirs = [await pair.theirs(PROMPT) for _ in range(count)]
    ours = [await pair.ours(PROMPT) for _ in range(count)]
    add(report, "hot turn back to back, p50", _ms(ours, 0.5), _ms(theirs, 0.5), 0.0)


async def _long(report: Report, pair: Pair, count: int) -> None:
    ours, theirs = (_LONG_CHUNKS / (_ms(taken, 0.5) / 1000) for taken in await pair.rounds(_LONG_PROMPT, count))
    what = f"an answer of {_LONG_CHUNKS:,} chunks"
    report.add(Figure("turn", what, ours, "chunks/s", Limit(BARE, theirs)))


async def _against_peer(report: Report, server: Server, url: str, rounds: int) -> None:
    def asked(prompt: str) -> bytes:
        return request(url, prompt, model=peers.MAX_API_MODEL)

    await check(url, asked(PROMPT), SAID)
    with closing(await Connection.open(url)) as peer, closing(await Connection.open(server.url)) as connection:
        pair = Pair(
            lambda prompt: connection.send(prepared(server, "hot", prompt)), lambda prompt: peer.send(asked(prompt))
        )
        ours, theirs = (_ms(taken, 0.5) for taken in await pair.rounds(PROMPT, rounds))
    limit = Limit("claude-max-api-proxy", theirs)
    report.add(Figure("turn", "hot turn beside a process a turn, p50", ours, "ms", limit))


def shim_of(server: Server, cli: int) -> int:
    """The worker whose CLI that is."""
    return next(pid for pid in descendants(server.process.pid) if pid != cli and find_cli(pid) == cli)


def add(report: Report, what: str, value: float, limit: float, goal: float) -> None:
    """A figure in ms beside the bare CLI's; `goal` is how many more it may be, 0: none is set."""
    met = Goal(f"at most +{goal:g} ms", value - limit <= goal) if goal else None
    report.add(Figure("turn", what, value, "ms", Limit(BARE, limit), met))


def _ms(taken: Sequence[Timed], share: float) -> float:
    return percentile([t.whole for t in taken], share) * 1000
