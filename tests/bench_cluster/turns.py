"""Hot turns through the cluster, beside a bare CLI's in a pod; and what they make the API server write."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from bench.load import Connection, check, percentile
from bench.report import Figure, Goal, Limit, Report
from bench.turns import PROMPT, SAID, Pair
from bench_cluster.pods import InPod
from bench_cluster.starts import leave, prepared
from bench_cluster.telling import LEASES, OURS, between, ours, writes
from cluster.stack import Stack

_GOAL_MS = 6.0
_WARM_UP = 5
_CONVERSATIONS = 5
_MOST_WRITES = 0.2


async def hot(report: Report, stack: Stack, floor: InPod, rounds: int) -> None:
    """Both in turns, on a conversation that runs."""
    await check(stack.url, prepared(stack, "hot"), SAID)
    await floor.ask("boot")
    await floor.first(PROMPT)
    with closing(await Connection.open(stack.url)) as connection:
        pair = Pair(lambda prompt: connection.send(prepared(stack, "hot", prompt)), floor.turn)
        await pair.rounds(PROMPT, _WARM_UP)
        mine, limit = await pair.rounds(PROMPT, rounds)
    await floor.ask("end")
    await leave(stack, "hot", purge=True)
    for name, share, goal in (("p50", 0.5, _GOAL_MS), ("p90", 0.9, 0.0)):
        value, other = (percentile([t.whole for t in taken], share) * 1000 for taken in (mine, limit))
        met = Goal(f"at most +{goal:g} ms", value - other <= goal) if goal else None
        report.add(Figure("hot", f"hot turn, {name} of {rounds}", value, "ms", Limit("bare CLI in a pod", other), met))


@dataclass(frozen=True, slots=True)
class Counted:
    """What happened in a while: writes as the API server counts them, and as a watch of our namespace saw them."""

    writes: Counter[str]
    seen: Counter[str]
    seconds: float

    def less(self, idle: Counted) -> Counter[str]:
        """Writes, without as many as there would have been anyway; an idle cluster's do not come evenly."""
        share = self.seconds / idle.seconds
        return Counter({name: max(0, round(self.writes[name] - idle.writes[name] * share)) for name in OURS})


async def written(report: Report, stack: Stack, turns: int, seconds: float) -> None:
    """Writes that the API server was asked for, a turn: turns spread evenly, less what it is asked for without any."""
    names = [f"writes-{i}" for i in range(_CONVERSATIONS)]
    each = max(1, turns // len(names))
    done = each * len(names)
    await asyncio.gather(*(check(stack.url, prepared(stack, name), SAID) for name in names))
    await _until_told(stack, names, 1)
    idle = await _counted(stack, asyncio.sleep(seconds))
    busy = await _counted(stack, _spread(stack, names, each, seconds))
    await leave(stack, *names, purge=True)
    added = busy.less(idle)
    rate = added.total() / done
    what = f"API writes a turn, {done} turns of {len(names)} conversations in {busy.seconds:.0f} s"
    report.add(Figure("hot", what, rate, "writes", goal=Goal(f"below {_MOST_WRITES:g}", rate < _MOST_WRITES)))
    for name, number in added.items():
        report.add(Figure("hot", f"… of them to {name}, in all", number, "writes"))
    # Other namespaces' writes are in the API server's counts, and not in this.
    report.add(Figure("hot", "… by the changes of sessions, pools, pods and claims that a watch of the namespace saw",
                      busy.seen.total() / done, "changes"))  # fmt: skip
    for what, number in (("API writes a minute of five idle conversations", ours(idle.writes)),
                         ("Leases renewed a minute, the cluster's own included", idle.writes[LEASES])):  # fmt: skip
        report.add(Figure("hot", what, number * 60 / idle.seconds, "writes"))


async def _counted(stack: Stack, work: Awaitable[Any]) -> Counted:
    """What happened meanwhile."""
    before, seen, began = await _now(stack), len(stack.watch.changes), time.perf_counter()
    await work
    after, took = await _now(stack), time.perf_counter() - began
    return Counted(between(before, after), Counter(c.kind for c in stack.watch.changes[seen:]), took)


async def _now(stack: Stack) -> Counter[str]:
    return writes(await asyncio.to_thread(stack.cluster.kubectl, "get", "--raw", "/metrics"))


async def _spread(stack: Stack, names: list[str], each: int, seconds: float) -> None:
    """So many turns of each, one every `seconds / each`, until all are in the sessions' statuses."""
    with ExitStack() as opened:
        connections = [opened.enter_context(closing(await Connection.open(stack.url))) for _ in names]
        began = time.perf_counter()

        async def talk(number: int) -> None:
            for turn in range(each):
                due = began + (turn + number / len(names)) * seconds / each
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await connections[number].send(prepared(stack, names[number]))

        async with asyncio.TaskGroup() as group:
            for number in range(len(names)):
                group.create_task(talk(number))
    await _until_told(stack, names, each + 1)


async def _until_told(stack: Stack, names: list[str], turns: int) -> None:
    def told() -> bool:
        return all((s := stack.watch.session(name)) is not None and s.status.turns >= turns for name in names)

    await asyncio.to_thread(stack.watch.until, "turns are in the statuses", told)
