"""From a request to its first token, where the conversation has no worker yet: warm, cold, and resumed."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import httpx

from bench.load import Connection, Timed, percentile, request
from bench.report import Figure, Goal, Limit, Report
from bench.turns import PROMPT
from bench_cluster.pods import Bare, InPod, in_pod
from bench_cluster.timeline import medians, seen
from claude_crds.resources import SESSION_LABEL, Phase
from cluster.stack import Stack

BATCH = 6
"""So many spares are booted at once, and then claimed one after another: nothing boots beside a first turn."""
_WARM_GOAL_MS = 60.0
_RESUME_GOAL_MS = 400.0
_PATIENCE = 120.0


@dataclass
class Taken:
    """One kind of start, round by round: ours in seconds, its floor, and what was seen when."""

    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    shown: list[Mapping[str, float]] = field(default_factory=list)


def prepared(stack: Stack, conversation: str, prompt: str = PROMPT) -> bytes:
    """A request of one conversation."""
    return request(stack.url, prompt, {"X-Conversation-ID": conversation})


async def ask(stack: Stack, conversation: str, taken: Taken) -> Timed:
    """One turn on a connection of its own."""
    before = len(stack.watch.changes)
    with closing(await Connection.open(stack.url)) as connection:
        began = time.monotonic()
        timed = await connection.send(prepared(stack, conversation))
    await asyncio.to_thread(stack.watch.until_phase, conversation, Phase.READY)
    taken.ours.append(timed.first)
    taken.shown.append(seen(stack.watch.changes[before:], conversation, began))
    return timed


async def leave(stack: Stack, *conversations: str, purge: bool) -> None:
    """Suspend or delete them, and wait until their pods are gone."""
    names = {s.name for c in conversations if (s := stack.watch.session(c))}
    async with httpx.AsyncClient(base_url=stack.url, timeout=_PATIENCE) as client:
        query = {"purge": "true"} if purge else {}
        asked = (client.delete(f"/conversations/{c}", params=query) for c in conversations)
        for answer in await asyncio.gather(*asked):
            answer.raise_for_status()
    pods, sessions = stack.watch.pods, stack.watch.sessions

    def gone() -> bool:
        bound = any(p.metadata.labels.get(SESSION_LABEL) in names for p in pods.items())
        held = (s for n in names if (s := sessions.get(n)))
        return not bound and all(not purge and s.status.phase == Phase.SUSPENDED for s in held)

    await asyncio.to_thread(stack.watch.until, f"{conversations} are left", gone, _PATIENCE)


# -- warm --------------------------------------------------------------------------------------------------------------


async def warm(report: Report, stack: Stack, floor: InPod, rounds: int) -> None:
    """New conversations on spares, beside the first turn of a CLI that has booted in a pod of the same kind."""
    first, whole = Taken(), Taken()
    for begin in range(0, rounds, BATCH):
        batch = [f"warm-{i}" for i in range(begin, min(rounds, begin + BATCH))]
        stack.pool(size=BATCH, warm=BATCH)
        await asyncio.to_thread(stack.watch.until_warm, "default", BATCH)
        await asyncio.gather(*(_until_still(stack, pod.name) for pod in stack.watch.pods.items()))
        for number, conversation in enumerate(batch):
            await floor.ask("boot")
            await floor.ask("still")
            for which in ("ours", "floor") if number % 2 else ("floor", "ours"):
                timed = await (ask(stack, conversation, first) if which == "ours" else floor.first(PROMPT))
                getattr(whole, which).append(timed.whole)
                if which == "floor":
                    first.floor.append(timed.first)
        await leave(stack, *batch, purge=True)
    what = "new conversation, warm spare"
    _add(report, f"{what}, first content", first, "bare CLI, booted", _WARM_GOAL_MS)
    _add(report, f"{what}, whole turn", whole, "bare CLI, booted", 0.0)


async def _until_still(stack: Stack, pod: str) -> None:
    async with in_pod(stack.cluster, pod) as inside:
        await inside.ask("still")


# -- cold and resumed --------------------------------------------------------------------------------------------------


async def cold(report: Report, stack: Stack, floor: InPod, bare: Bare, rounds: int) -> None:
    """New conversations with no spare, beside a bare pod with a new volume."""
    taken = Taken()
    for number in range(rounds):
        taken.floor.append((await bare.to_port(floor))[1])
        await ask(stack, f"cold-{number}", taken)
        await leave(stack, f"cold-{number}", purge=True)
    _add(report, "new conversation, no spare, first content", taken, "bare pod, new volume, to open port", 0.0)


async def resumed(report: Report, stack: Stack, floor: InPod, bare: Bare, rounds: int) -> None:
    """A suspended conversation, beside what cannot be less: a pod on a volume that is there, a boot, a first turn."""
    name, taken = "resumed", Taken()
    pods: list[float] = []
    boots: list[float] = []
    firsts: list[float] = []
    claim = await bare.make_claim()
    await bare.to_port(floor, claim)  # makes the volume
    await ask(stack, name, Taken())
    await floor.ask("boot")
    await floor.first(PROMPT)
    for _ in range(rounds):
        await leave(stack, name, purge=False)
        await ask(stack, name, taken)
        pods.append((await bare.to_port(floor, claim))[1])
        answer = await floor.ask("resume", prompt=PROMPT)
        boots.append(answer["boot"])
        firsts.append(answer["first"])
        taken.floor.append(pods[-1] + boots[-1] + firsts[-1])
    await floor.ask("end")
    await leave(stack, name, purge=True)
    _add(report, "resumed conversation, first content", taken, "bare pod, boot, turn", _RESUME_GOAL_MS)
    for what, seconds in (("bare pod with a volume that is there, to open port", pods),
                          ("bare CLI with --resume, until `initialize` is answered", boots),
                          ("its first turn, first text", firsts)):  # fmt: skip
        report.add(Figure("start", f"… beside it: {what}, p50", statistics.median(seconds) * 1000, "ms"))


def _add(report: Report, what: str, taken: Taken, beside: str, goal: float) -> None:
    """p50 with the goal (how many ms more it may be; 0: none), p90 or the most, and where the time went."""
    value, limit = (statistics.median(seconds) * 1000 for seconds in (taken.ours, taken.floor))
    met = Goal(f"at most +{goal:g} ms", value - limit <= goal) if goal else None
    report.add(Figure("start", f"{what}, p50 of {len(taken.ours)}", value, "ms", Limit(beside, limit), met))
    for name, share in ends(taken.ours):
        ours, theirs = (percentile(seconds, share) * 1000 for seconds in (taken.ours, taken.floor))
        report.add(Figure("start", f"{what}, {name}", ours, "ms", Limit(beside, theirs)))
    for event, seconds in medians(taken.shown).items():
        report.add(Figure("start", f"… until {event}, p50", seconds * 1000, "ms"))


def ends(values: Sequence[float]) -> list[tuple[str, float]]:
    """The upper percentiles that so many values have."""
    return [("p90", 0.9), ("most", 1.0)] if len(values) >= 10 else [("most", 1.0)]
