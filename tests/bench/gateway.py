"""What the gateway adds to a request of a worker, against its upstream and against the router's relay.

`python -m bench.gateway PORT`: an upstream that streams as the Messages API does; `… PORT URL`: the gateway before it,
with everything that a request of a worker meets, but for the API server.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from bench.load import Connection, on_loop, percentile, run
from bench.processes import Service, ours
from bench.report import Figure, Goal, Limit, Report
from claude_crds.logs import configure
from claude_router.gateway import prices
from claude_router.gateway.app import GatewayApp
from claude_router.gateway.callers import Caller
from claude_router.gateway.ledger import Ledger
from claude_router.gateway.meter import Meter
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.relay import Relay
from claude_router.gateway.serve import server
from claude_router.gateway.spending import Spending
from claude_router.gateway.teams import Policy, StaticTeams
from claude_router.gateway.upstreams import Upstreams
from claude_router.gateway.verify import AUDIENCE, TokenVerifier
from claude_router.serving import listen
from local.server import resident_bytes

SHORT_CHUNKS, LONG_CHUNKS = 5, 100_000
_BATCH = 100
_COUNTS = {1: 1200, 16: 4800}
_ROUNDS = 4
_LONG_ROUNDS = 15
_KEY = f"sk-{secrets.token_hex(16)}"
_PROMPT_BYTES = 60_000
"""About what Claude Code's own prompt and tools are."""
_ADDED_MS = 3
_AT_LEAST = 0.8

DIRECT, ROUTER, GATEWAY = "direct", "router", "gateway"


def measure(report: Report, folder: Path, *, scale: float) -> None:
    """All figures of the gateway; `scale` multiplies the number of requests."""
    with ExitStack() as stack:
        places = {name: folder / f"gateway-{name}" for name in (DIRECT, ROUTER, GATEWAY)}
        for place in places.values():
            place.mkdir()
        upstream = stack.enter_context(ours("gateway", places[DIRECT]))
        router = stack.enter_context(ours("relay_server", places[ROUTER], upstream.url, API_KEYS=_KEY))
        ring = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ring.public_key()))
        jwks = json.dumps({"keys": [{**public, "kid": "k", "alg": "ES256"}]})
        gateway = stack.enter_context(ours("gateway", places[GATEWAY], upstream.url, JWKS=jwks))
        token = jwt.encode(_claims(), ring, algorithm="ES256", headers={"kid": "k"})
        services = {DIRECT: upstream, ROUTER: router, GATEWAY: gateway}
        keys = {DIRECT: token, ROUTER: _KEY, GATEWAY: token}
        fresh = resident_bytes(gateway.pid)
        for streams, count in _COUNTS.items():
            on_loop(_short(report, services, keys, streams, max(_ROUNDS * streams, int(count * scale))))
        on_loop(_long(report, services, keys, max(1, round(_LONG_ROUNDS * scale))))
        grown = resident_bytes(gateway.pid)
        mib = 1024 * 1024
        report.add(Figure("gateway", "memory after its load", grown / mib, "MiB", Limit("before it", fresh / mib)))


def _claims() -> dict[str, object]:
    bound = {"namespace": "ns", "pod": {"name": "pod-1", "uid": "u"}}
    return {"iss": "bench", "aud": [AUDIENCE], "exp": time.time() + 3600, "kubernetes.io": bound}


def _request(name: str, service: Service, key: str, prompt: str, *, size: int = _PROMPT_BYTES) -> bytes:
    """A whole request of the service's own API."""
    said = [{"role": "user", "content": prompt}]
    system = {"system": "x" * size} if name != ROUTER else {}
    model = "claude-code" if name == ROUTER else "claude-sonnet-5"
    data = json.dumps({"model": model, "max_tokens": 9, "stream": True, "messages": said, **system}).encode()
    path = "/v1/chat/completions" if name == ROUTER else "/v1/messages?beta=true"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(service.url).netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nX-Conversation-ID: bench-{secrets.token_hex(4)}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def _short(
    report: Report, services: Mapping[str, Service], keys: Mapping[str, str], streams: int, count: int
) -> None:
    taken: dict[str, list[float]] = {DIRECT: [], GATEWAY: []}
    rates: dict[str, list[float]] = {DIRECT: [], GATEWAY: []}
    for _ in range(_ROUNDS):
        for name in taken:
            service = services[name]
            prepared = [_request(name, service, keys[name], "short") for _ in range(streams)]
            latencies, rate = await run(prepared, service.url, count // _ROUNDS)
            taken[name] += latencies
            rates[name].append(rate)
    p50 = {name: percentile(found, 0.5) * 1000 for name, found in taken.items()}
    p99 = {name: percentile(found, 0.99) * 1000 for name, found in taken.items()}
    at = f"{streams} stream{'s' if streams > 1 else ''}"
    near = Goal(f"at most +{_ADDED_MS} ms", p50[GATEWAY] - p50[DIRECT] <= _ADDED_MS) if streams == 1 else None
    _add(report, f"{at}, p50", "ms", p50, DIRECT, near)
    _add(report, f"{at}, p99", "ms", p99, DIRECT, None)
    _add(report, f"{at}, answers a second", "/s", {n: statistics.median(r) for n, r in rates.items()}, DIRECT)


async def _long(report: Report, services: Mapping[str, Service], keys: Mapping[str, str], rounds: int) -> None:
    """One stream that never waits, beside the router's relay of the same."""
    rates: dict[str, list[float]] = {ROUTER: [], GATEWAY: []}
    for _ in range(rounds):
        for name, found in rates.items():
            service = services[name]
            prepared = _request(name, service, keys[name], "long", size=10)
            with closing(await Connection.open(service.url)) as connection:
                found.append(LONG_CHUNKS / (await connection.send(prepared)).whole)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    goal = Goal(f"at least {_AT_LEAST:.0%} of the router's relay", medians[GATEWAY] >= _AT_LEAST * medians[ROUTER])
    _add(report, f"one stream of {LONG_CHUNKS:,} chunks at full speed", "chunks/s", medians, ROUTER, goal)


def _add(
    report: Report, what: str, unit: str, values: Mapping[str, float], beside: str, goal: Goal | None = None
) -> None:
    report.add(Figure("gateway", what, values[GATEWAY], unit, Limit(beside, values[beside]), goal))


# -- the processes ---------------------------------------------------------------------------------------------------


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE = {"input_tokens": 20_000, "output_tokens": 1}
_START = _framed(_event("message_start", message={"id": "msg_1", "model": "claude-sonnet-5", "usage": _USAGE}))
# `content` and `[DONE]` are what the load generator knows an answer by, whoever's API it is.
_CHUNK = _framed(_event("content_block_delta", index=0, delta={"type": "text_delta", "content": "word "}))
_STOP = _event("message_delta", delta={}, usage={"output_tokens": 5}) + _event("message_stop")
_LAST = _framed(_STOP + b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection; answers one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by its shape: uvloop's own is no subclass
        self._received: list[bytes] = []
        self._missing = -1
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._missing < 0:
            head, blank, rest = b"".join(self._received).partition(b"\r\n\r\n")
            if not blank:
                return
            lines = head.lower().split(b"\r\n")
            self._missing = next((int(line[15:]) for line in lines if line[:15] == b"content-length:"), 0) - len(rest)
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            body = b"".join(self._received)
            self._received, self._missing = [], -1
            self._task = asyncio.create_task(self._stream(b'"long"' in body))

    async def _stream(self, long: bool) -> None:
        self._transport.write(_HEAD + _START)
        for _ in range(LONG_CHUNKS // _BATCH if long else SHORT_CHUNKS):
            await self._writable.wait()
            await asyncio.sleep(0)  # what is written without a pause in between, uvloop sends as one packet
            self._transport.write(_CHUNK * _BATCH if long else _CHUNK)
        await asyncio.sleep(0)
        self._transport.write(_LAST)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()


class _Pods:
    """Credentials by the verifier, of a cluster that has every pod."""

    def __init__(self, jwks: bytes) -> None:
        async def fetch() -> tuple[bytes, bytes]:
            return b'{"issuer": "bench"}', jwks

        self._verifier = TokenVerifier(fetch)

    async def check(self, token: str) -> Caller:
        pod = await self._verifier.verify(token)
        return Caller("conv-bench", "red", "default", pod.name)


async def _upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def _gateway(port: int, url: str, folder: Path) -> None:
    configure("text")  # the log of requests included, as it is run
    (folder / "ANTHROPIC_API_KEY").write_text("sk-bench")
    ledger, metrics = Ledger(folder / "ledger.sqlite3"), GatewayMetrics()
    ledger.open()
    upstreams = Upstreams(folder, None, url)
    upstreams.look()
    teams = StaticTeams({"red": Policy(models=("sonnet",))})
    relay = Relay(Meter(ledger, prices.read(), Spending(), metrics, teams.known), metrics)
    app = GatewayApp(_Pods(os.environ["JWKS"].encode()), teams, upstreams, relay, metrics, max_body_bytes=1 << 25)
    running = server(app, 1)
    serving = asyncio.create_task(running.serve([listen("127.0.0.1", port)]))
    await asyncio.to_thread(sys.stdin.read)
    running.should_exit = running.force_exit = True
    await serving
    await relay.close()
    ledger.close()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        on_loop(_upstream(int(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as place:
            on_loop(_gateway(int(sys.argv[1]), sys.argv[2], Path(place)))
