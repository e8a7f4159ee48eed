"""What the router adds to a stream, against calling its upstream directly and against LiteLLM's proxy."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from bench.load import Connection, chat_body, request, run
from bench.report import Figure, Report
from bench.upstream import LONG_CHUNKS
from local.harness import ROOT, SOURCES, Running, clean_environment, eventually, start
from local.server import free_port

_PATH = os.pathsep.join([SOURCES, str(ROOT / "tests")])
LITELLM = ROOT / ".tools" / "litellm" / "bin" / "litellm"
_CONFIG = """\
model_list:
  - model_name: claude-code
    litellm_params: {{model: openai/x, api_base: {url}/v1, api_key: none}}
"""


@contextmanager
def process(module: str, *arguments: str) -> Iterator[Running]:
    running = start(module, clean_environment({"PYTHONPATH": _PATH}), arguments=arguments)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def litellm(upstream: str, folder: Path) -> Iterator[str]:
    """LiteLLM's proxy in front of the upstream; gives its address."""
    config = folder / "litellm.yaml"
    config.write_text(_CONFIG.format(url=upstream))
    port = free_port()
    env = clean_environment({"LITELLM_LOCAL_MODEL_COST_MAP": "true", "LITELLM_TELEMETRY": "False",
                             "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"})  # fmt: skip
    env.pop("PYTHONPATH")
    command = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    running = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _answers(f"{url}/health/liveliness"), 120)
        yield url
    finally:
        running.terminate()
        running.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _short(url: str, streams: int, count: int) -> tuple[float, float]:
    """Median latency in ms, and requests a second."""
    prepared = request(url, chat_body("hi"), {"Authorization": "Bearer sk-none-none"})
    latencies, rate = await run(url, prepared, streams=streams, count=count)
    return statistics.median(latencies) * 1000, rate


async def _long(url: str) -> float:
    connection = Connection(url)
    await connection.open()
    began = time.perf_counter()
    await connection.send(request(url, chat_body("long stream")))
    connection.close()
    return time.perf_counter() - began


async def _compare(report: Report, urls: dict[str, str], scale: float) -> None:
    for streams, count in ((1, 1500), (16, 6000), (64, 6000)):
        added: dict[str, float] = {}
        direct, direct_rate = await _short(urls["direct"], streams, int(count * scale))
        for name in [n for n in urls if n != "direct"]:
            slow = 0.1 if name == "LiteLLM" else 1.0
            latency, rate = await _short(urls[name], streams, max(streams * 4, int(count * scale * slow)))
            added[name] = latency - direct
            twentieth = added["router"] <= added[name] / 20 if name == "LiteLLM" else None
            goal = {"router": "about 1 ms", "LiteLLM": "router: a twentieth"}[name] if streams == 1 else ""
            met = {"router": added[name] <= 1.2, "LiteLLM": twentieth}[name] if streams == 1 else None
            report.add(Figure("relay", f"{name}: added latency p50, {streams} streams", added[name], "ms",
                              f"direct {direct:.2f} ms", goal, met))  # fmt: skip
            aim = name == "router" and streams == 16
            goal, met = ("1,000/s", rate >= 1000) if aim else ("", None)
            report.add(Figure("relay", f"{name}: short streams a second, {streams} streams", rate, "/s",
                              f"direct {direct_rate:,.0f}/s", goal, met))  # fmt: skip


def measure(report: Report, folder: Path, *, peers: bool, scale: float) -> None:
    """All figures of the relay; `scale` multiplies the number of requests."""
    with ExitStack() as stack:
        upstream = stack.enter_context(process("bench.upstream"))
        router = stack.enter_context(process("bench.relay_server", upstream.url))
        urls = {"direct": upstream.url, "router": router.url}
        if peers:
            urls["LiteLLM"] = stack.enter_context(litellm(upstream.url, folder))
        asyncio.run(_compare(report, urls, scale))
        direct = asyncio.run(_long(upstream.url))
        before = cpu_seconds(router.process.pid)
        through = asyncio.run(_long(router.url))
        used = cpu_seconds(router.process.pid) - before
        report.add(Figure("relay", "one long stream through the router", LONG_CHUNKS / through, "chunks/s",
                          f"direct {LONG_CHUNKS / direct:,.0f}/s"))  # fmt: skip
        report.add(Figure("relay", "the router's CPU for it", LONG_CHUNKS / max(used, 0.01), "chunks per CPU second"))
