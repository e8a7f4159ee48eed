"""What router and operator hold in memory, without sessions and with many that sleep; how those are listed."""

from __future__ import annotations

import asyncio
import re
import statistics
import time

import httpx

from bench.report import Figure, Limit, Report
from bench_cluster.pods import PYTHON
from claude_crds.api import Api
from claude_crds.names import session_name
from claude_crds.resources import SESSIONS, Desired, Phase, timestamp
from claude_router.sessions import LOCAL_TENANT
from cluster.stack import Cluster, Stack

PARTS = ("router", "operator")
_AT_ONCE = 16
_REPEATS = 10
_PATIENCE = 180.0
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)


def resident_kib(status: str) -> int:
    """KiB, from the text of /proc/PID/status."""
    found = _RESIDENT.search(status)
    if found is None:
        raise ValueError("no VmRSS in it")
    return int(found[1])


async def held(report: Report, stack: Stack, api: Api, count: int) -> None:
    """All figures of memory."""
    none = await asyncio.to_thread(_resident, stack.cluster)
    began = time.perf_counter()
    await _create(stack, api, count)
    await asyncio.to_thread(stack.watch.until, "all are taken note of", lambda: _suspended(stack) >= count, _PATIENCE)
    noted = time.perf_counter() - began
    listed = await _listed(stack, count)
    many = await asyncio.to_thread(_resident, stack.cluster)
    for part in PARTS:
        what = f"{part} with {count:,} suspended sessions"
        report.add(Figure("held", what, many[part] / 1024, "MiB", Limit("with none", none[part] / 1024)))
        report.add(Figure("held", "… that is, for each", (many[part] - none[part]) / count, "KiB"))
    report.add(Figure("held", f"GET /conversations?limit={count}, p50", listed, "ms"))
    report.add(Figure("held", f"{count:,} sessions created, until the operator has a status for each", noted, "s"))
    await asyncio.to_thread(stack.cluster.kubectl, "delete", "claudesessions", "--all", "--wait=false")


async def _create(stack: Stack, api: Api, count: int) -> None:
    left = iter(range(count))

    async def some() -> None:
        for number in left:
            conversation = f"sleeping-{number}"
            spec = {"conversationID": conversation, "tenant": LOCAL_TENANT, "poolRef": {"name": "default"},
                    "desiredState": Desired.SUSPENDED, "lastRequestTime": timestamp(time.time())}  # fmt: skip
            body = {"metadata": {"name": session_name(LOCAL_TENANT, conversation)}, "spec": spec}
            await api.create(SESSIONS, stack.cluster.namespace, body)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(some())


def _suspended(stack: Stack) -> int:
    return sum(session.status.phase == Phase.SUSPENDED for session in stack.watch.sessions.items())


async def _listed(stack: Stack, count: int) -> float:
    """ms for all of them in one answer, from whichever router is asked."""
    taken: list[float] = []
    async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
        for _ in range(_REPEATS):
            began = time.perf_counter()
            answer = await client.get("/conversations", params={"limit": count})
            taken.append((time.perf_counter() - began) * 1000)
            found = len(answer.raise_for_status().json()["data"])
            if found != count:
                raise RuntimeError(f"{found} of {count} conversations were listed")
    return statistics.median(taken)


def _resident(cluster: Cluster) -> dict[str, int]:
    """KiB of each part, of the replica that holds the most: of the operators, that is the one that leads."""
    program = "print(open('/proc/1/status').read())"
    found: dict[str, int] = {}
    for part in PARTS:
        names = [pod["metadata"]["name"] for pod in cluster.pods(part)]
        found[part] = max(resident_kib(cluster.kubectl("exec", n, "--", PYTHON, "-c", program)) for n in names)
    return found
