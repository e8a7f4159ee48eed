"""`make bench-cluster`: measure on the cluster that is up, say which goals are met, write docs/performance.md.

About five minutes. With fewer rounds, or only some of the steps, it writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from bench.__main__ import DOCUMENT
from bench.load import on_loop
from bench.report import CLUSTER, Figure, Report, write
from bench_cluster import held, starts, telling, turns
from bench_cluster.pods import Bare, InPod, in_pod
from claude_crds.access import from_kubeconfig
from claude_crds.api import Api
from cluster.stack import Stack, installed

STEPS = ("warm", "cold", "resumed", "hot", "writes", "held")
ROUNDS = 12
"""Of a warm start; the rest in proportion."""
_LONGEST_SECONDS = 15 * 60


@dataclass
class Run:
    """What all steps need."""

    report: Report
    stack: Stack
    api: Api
    bare: Bare
    rounds: int

    def step(self, name: str, floor: InPod) -> Coroutine[Any, Any, None]:
        """One of the steps."""
        report, stack, bare = self.report, self.stack, self.bare
        steps: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "warm": lambda: starts.warm(report, stack, floor, self.rounds),
            "cold": lambda: starts.cold(report, stack, floor, bare, self.of(4)),
            "resumed": lambda: starts.resumed(report, stack, floor, bare, self.of(8)),
            "hot": lambda: turns.hot(report, stack, floor, self.of(200)),
            "writes": lambda: turns.written(report, stack, self.of(300), self.of(30)),
            "held": lambda: held.held(report, stack, self.api, self.of(1000)),
        }
        return steps[name]()

    def of(self, count: int) -> int:
        """As many of what there are `count` of in a whole run."""
        return max(1, count * min(self.rounds, ROUNDS) // ROUNDS)


def main() -> int:
    """Entry point; returns the exit status: 0 also when goals are missed, 130 when it was told to stop."""
    parser = argparse.ArgumentParser(prog="bench_cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of a warm start; the whole run has {ROUNDS}")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    chosen = parser.parse_args()
    # A shell's background jobs inherit that it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ctrl-C is what asyncio and every `with` below know how to end at; the others become one.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.alarm(_LONGEST_SECONDS)
    report = Report(CLUSTER)
    began = time.monotonic()
    try:
        # A bare pod has no credential for the gateway; what that adds, `make bench` measures.
        more = {"gateway__enabled": False}
        with installed(pool__size=starts.BATCH, pool__warm=1, pool__idleTimeout="0", **more) as stack:
            on_loop(_measure(report, stack, chosen.rounds, chosen.only))
    except KeyboardInterrupt:
        print(f"stopped after {time.monotonic() - began:.0f} s; {DOCUMENT.name} was not written", file=sys.stderr)
        return 130
    print(f"\n{len(report.figures)} figures in {time.monotonic() - began:.0f} s")
    for figure in report.missed:
        print(f"  missed: {figure.what}: {figure.shown}, {figure.beside} ({figure.comparison})")
    if chosen.rounds >= ROUNDS and set(chosen.only) == set(STEPS):
        write(DOCUMENT, report)
        print(f"written to {DOCUMENT}")
    return 0


async def _measure(report: Report, stack: Stack, rounds: int, steps: Sequence[str]) -> None:
    cluster, watch = stack.cluster, stack.watch
    nodes = await asyncio.to_thread(cluster.get, "nodes")
    report.versions["Kubernetes"] = nodes["items"][0]["status"]["nodeInfo"]["kubeletVersion"]
    await asyncio.to_thread(watch.until_warm)
    async with Api(lambda: from_kubeconfig(str(cluster.kubeconfig))) as api:
        bare = await Bare.like(api, cluster, next(iter(watch.pods.items())).name)
        async with bare.pod(await bare.make_claim()) as (pod, _, _):
            await asyncio.to_thread(cluster.kubectl, "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")
            run = Run(report, stack, api, bare, rounds)
            for name in steps:
                await _step(run, name, pod)
    for kind, (number, mean) in sorted((await asyncio.to_thread(telling.operator_waits, cluster)).items()):
        what = f"the operator's own claude_operator_wait_seconds, {kind}, mean of {number:.0f}"
        report.add(Figure("start", what, mean * 1000, "ms"))


async def _step(run: Run, name: str, pod: str) -> None:
    if name != "warm":
        run.stack.pool(warm=0)
        none = run.stack.watch.pods.items
        await asyncio.to_thread(run.stack.watch.until, "no worker is left", lambda: not none())
    began = time.monotonic()
    # For each step anew: a connection on which nothing is said for minutes may not last.
    async with in_pod(run.stack.cluster, pod) as floor:
        await run.step(name, floor)
    print(f"-- {name} took {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
