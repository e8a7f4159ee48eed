"""What the router adds to a stream, against calling its upstream directly and against LiteLLM's proxy."""

from __future__ import annotations

import asyncio
import secrets
import statistics
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from bench import peers
from bench.load import Connection, check, on_loop, percentile, request, run
from bench.processes import Service, ours
from bench.report import Figure, Goal, Limit, Report
from bench.upstream import LONG_CHUNKS, SHORT_CHUNKS, SLOW_CHUNKS, WORD
from local.server import resident_bytes

_COUNTS = {1: 1200, 16: 4800, 64: 4800}
"""Requests at each number of streams, in all rounds together."""
_ROUNDS = 4
_LITELLM_SHARE = 0.05
"""Of those counts, what LiteLLM gets: it takes some thirty times as long."""
_SLOW_STREAMS = 64
_KEY = f"sk-{secrets.token_hex(16)}"
"""Both proxies check it: each then runs as it would be run, and neither can be used by anybody else meanwhile."""

_TWENTIETH = 0.05
_THOUSANDS = 2000

DIRECT, ROUTER, LITELLM = "direct", "router", "LiteLLM"


def measure(report: Report, folder: Path, *, peer: bool, scale: float) -> None:
    """All figures of the relay; `scale` multiplies the number of requests."""
    with ExitStack() as stack:
        upstream = stack.enter_context(ours("upstream", folder))
        router = stack.enter_context(ours("relay_server", folder, upstream.url, API_KEYS=_KEY))
        services = {DIRECT: upstream, ROUTER: router}
        if peer:
            report.versions[LITELLM] = peers.litellm_version()
            services[LITELLM] = stack.enter_context(peers.litellm(upstream, folder, _KEY))
        fresh = resident_bytes(router.pid)
        on_loop(_compare(report, services, scale))
        on_loop(_long(report, services, max(1, round(3 * scale))))
        on_loop(_slow(report, services))
        grown = resident_bytes(router.pid)
        _memory(report, fresh, grown, services)


def _prepared(service: Service, streams: int, prompt: str) -> list[bytes]:
    """A request for each stream, of a conversation of its own."""
    headers = {"Authorization": f"Bearer {_KEY}"}
    return [
        request(service.url, prompt, headers | {"X-Conversation-ID": f"bench-{number}"}) for number in range(streams)
    ]


# -- short streams ---------------------------------------------------------------------------------------------------


async def _compare(report: Report, services: Mapping[str, Service], scale: float) -> None:
    for service in services.values():
        await check(service.url, _prepared(service, 1, "short")[0], WORD * SHORT_CHUNKS)
    for streams, count in _COUNTS.items():
        await _compare_at(report, services, streams, int(count * scale))


async def _compare_at(report: Report, services: Mapping[str, Service], streams: int, count: int) -> None:
    """Latencies and rates at so many streams at once; the services take turns, so that all meet the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in services}
    rates: dict[str, list[float]] = {name: [] for name in services}
    used = 0.0
    for _ in range(_ROUNDS):
        for name, service in services.items():
            before = service.cpu_seconds
            share = _LITELLM_SHARE if name == LITELLM else 1.0
            latencies, rate = await run(_prepared(service, streams, "short"), service.url, int(count * share / _ROUNDS))
            taken[name] += latencies
            rates[name].append(rate)
            used += service.cpu_seconds - before if name == ROUTER else 0.0
    p50 = {name: percentile(latencies, 0.5) * 1000 for name, latencies in taken.items()}
    p99 = {name: percentile(latencies, 0.99) * 1000 for name, latencies in taken.items()}
    rate_of = {name: statistics.median(found) for name, found in rates.items()}
    at = f"{streams} stream{'s' if streams > 1 else ''}"
    near = Goal("at most +1 ms", p50[ROUTER] - p50[DIRECT] <= 1) if streams == 1 else None
    fast = Goal("at least 1,000/s", rate_of[ROUTER] >= 1000) if streams == 16 else None
    _add(report, f"router, {at}, p50", "ms", p50, near)
    _add(report, f"router, {at}, p99", "ms", p99, None)
    _add(report, f"router, {at}, answers a second", "/s", rate_of, fast)
    a_core = (len(taken[ROUTER]) + streams * _ROUNDS) / max(used, 0.01)
    report.add(Figure("relay", f"router, {at}, answers for a second of one core", a_core, "/s"))
    if LITELLM in services:
        _beside_litellm(report, at, p50, rate_of)


def _add(report: Report, what: str, unit: str, values: Mapping[str, float], goal: Goal | None) -> None:
    report.add(Figure("relay", what, values[ROUTER], unit, Limit(DIRECT, values[DIRECT]), goal))


def _beside_litellm(report: Report, at: str, p50: Mapping[str, float], rate: Mapping[str, float]) -> None:
    report.add(Figure("relay", f"LiteLLM, {at}, p50", p50[LITELLM], "ms", Limit(DIRECT, p50[DIRECT])))
    report.add(Figure("relay", f"LiteLLM, {at}, answers a second", rate[LITELLM], "/s", Limit(DIRECT, rate[DIRECT])))
    added = {name: p50[name] - p50[DIRECT] for name in (ROUTER, LITELLM)}
    share = added[ROUTER] / added[LITELLM]
    goal = Goal("at most a twentieth: 5 %", share <= _TWENTIETH)
    report.add(Figure("relay", f"what the router adds of what LiteLLM adds, {at}, p50", share * 100, "%", goal=goal))


# -- long streams ----------------------------------------------------------------------------------------------------


async def _long(report: Report, services: Mapping[str, Service], rounds: int) -> None:
    """One stream that never waits: what the router can pass on when chunks come together."""
    rates: dict[str, list[float]] = {DIRECT: [], ROUTER: []}
    used = 0.0
    for _ in range(rounds):
        for name, found in rates.items():
            service = services[name]
            before = service.cpu_seconds
            with closing(await Connection.open(service.url)) as connection:
                found.append(LONG_CHUNKS / (await connection.send(_prepared(service, 1, "long")[0])).whole)
            used += service.cpu_seconds - before if name == ROUTER else 0.0
    medians = {name: statistics.median(found) for name, found in rates.items()}
    _add(report, f"router, one stream of {LONG_CHUNKS:,} chunks at full speed", "chunks/s", medians, None)
    a_core = LONG_CHUNKS * rounds / max(used, 0.01)
    report.add(Figure("relay", "router, chunks at full speed for a second of one core", a_core, "chunks/s"))


async def _slow(report: Report, services: Mapping[str, Service]) -> None:
    """Many streams whose chunks come one by one, as a model's do: each is a wake-up, a read and a write of its own."""
    chunks = _SLOW_STREAMS * SLOW_CHUNKS
    rates: dict[str, float] = {}
    for name in (DIRECT, ROUTER):
        before = services[ROUTER].cpu_seconds
        longest = await _all_at_once(services[name], _SLOW_STREAMS, "slow")
        rates[name] = chunks / longest
    a_core = chunks / max(services[ROUTER].cpu_seconds - before, 0.01)
    _add(report, f"router, {_SLOW_STREAMS} streams whose chunks come one by one", "chunks/s", rates, None)
    goal = Goal("thousands", a_core >= _THOUSANDS)
    report.add(Figure("relay", "router, chunks one by one for a second of one core", a_core, "chunks/s", goal=goal))


async def _all_at_once(service: Service, streams: int, prompt: str) -> float:
    """Seconds until the last of so many streams has ended."""
    connections = [await Connection.open(service.url) for _ in range(streams)]
    sent = (c.send(mine) for c, mine in zip(connections, _prepared(service, streams, prompt), strict=True))
    taken = await asyncio.gather(*sent)
    for connection in connections:
        connection.close()
    return max(timed.whole for timed in taken)


# -- memory ----------------------------------------------------------------------------------------------------------


def _memory(report: Report, fresh: int, grown: int, services: Mapping[str, Service]) -> None:
    mib = 1024 * 1024
    report.add(Figure("memory", "router after the load above", grown / mib, "MiB", Limit("before it", fresh / mib)))
    if LITELLM in services:
        held = resident_bytes(services[LITELLM].pid) / mib
        report.add(Figure("memory", "LiteLLM after a twentieth of it", held, "MiB"))
