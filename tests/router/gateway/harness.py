"""A gateway on loopback between the test and a model made of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from claude_router.gateway import prices
from claude_router.gateway.app import GatewayApp
from claude_router.gateway.callers import Caller, StaticCredentials
from claude_router.gateway.ledger import Ledger, connect
from claude_router.gateway.meter import Meter
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.relay import Relay
from claude_router.gateway.spending import Spending
from claude_router.gateway.teams import Policy, StaticTeams
from claude_router.gateway.upstreams import Upstreams
from claude_router.serving import Server
from router.fakes import PATIENCE, FakeWorker, Script
from router.harness import RawAnswer

TOKEN = "token-of-the-worker"
REAL_KEY = "sk-ant-the-real-key"
CALLER = Caller("conv-a", "red", "default", "pod-1")
JSON = {"content-type": "application/json"}
MESSAGES = "/v1/messages"
AUTH = {"authorization": f"Bearer {TOKEN}"}


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def start(model: str = "claude-opus-5", **usage: Any) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": 1, **usage}
    return event("message_start", message={"id": "msg_1", "model": model, "content": [], "usage": usage})


def finish(**usage: Any) -> bytes:
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 40, **usage})
    return last + event("message_stop")


def body(model: str = "claude-opus-5", **more: Any) -> bytes:
    return json.dumps({"model": model, "max_tokens": 5, "messages": [], "stream": True, **more}).encode()


def request(length: int | str, extra: str = "") -> str:
    """The head of a request with a body of that length, or with that header instead."""
    size = f"content-length: {length}\r\n" if isinstance(length, int) else f"{length}\r\n"
    return f"POST {MESSAGES}?beta=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{extra}{size}\r\n"


async def until(true: Callable[[], bool]) -> None:
    """Return when it is true; for what no event tells."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if true():
                return
            await asyncio.sleep(0.005)


@dataclass
class Running:
    """A gateway, the model behind it, and what it has written."""

    model: FakeWorker
    client: httpx.AsyncClient
    port: int
    ledger: Ledger
    path: Path
    spending: Spending
    metrics: GatewayMetrics
    upstreams: Upstreams

    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, head: str) -> tuple[RawAnswer, asyncio.StreamWriter]:
        """A connection of its own, of which the test sees every byte."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(head.encode())
        return RawAnswer(reader), writer

    async def post(self, content: bytes | None = None, path: str = MESSAGES, **headers: str) -> httpx.Response:
        content = body() if content is None else content
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=content, headers=AUTH | JSON | given)

    def rows(self) -> list[dict[str, Any]]:
        """The ledger as it is on disk, in order."""
        assert self.ledger.flush()
        with contextlib.closing(connect(self.path)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM requests ORDER BY began")]

    async def ended(self, count: int = 1) -> list[dict[str, Any]]:
        """The same, once so many have ended."""
        await until(lambda: len([row for row in self.rows() if row["ended"] is not None]) >= count)
        return self.rows()

    def counter(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """The application on a port of its own."""
    server = Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", http="httptools",
                                   ws="none", server_header=False))  # fmt: skip
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    script: Script,
    *,
    teams: Mapping[str, Policy] | None = None,
    max_body_bytes: int = 1 << 20,
    most_at_a_time: int = 9,
    ceiling: int = 0,
    url: str = "",
    caller: Caller = CALLER,
    kind: str = "anthropic",
    files: Mapping[str, str] | None = None,
    look: bool = True,
) -> AsyncIterator[Running]:
    """A running gateway. `script` answers for the model; `url` takes its place, an account of `kind` with `files`."""
    secret = folder / "upstream"
    secret.mkdir()
    for name, text in (files or {"ANTHROPIC_API_KEY": REAL_KEY + "\n"}).items():
        (secret / name).write_text(text)
    path = folder / "ledger.sqlite3"
    ledger, metrics, spending = Ledger(path), GatewayMetrics(), Spending()
    ledger.open()
    policies = StaticTeams({"red": Policy(), **(teams or {})})
    async with FakeWorker(script) as model:
        upstreams = Upstreams(secret, folder / "teams", url or model.endpoint, kind=kind)
        if look:
            upstreams.look()
        relay = Relay(Meter(ledger, prices.read(), spending, metrics, policies.known), metrics, ceiling_percent=ceiling)
        app = GatewayApp(StaticCredentials.of({TOKEN: caller}), policies, upstreams, relay, metrics,
                         max_body_bytes=max_body_bytes, most_at_a_time=most_at_a_time)  # fmt: skip
        try:
            async with (
                listening(app) as port,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as client,
            ):
                running = Running(model, client, port, ledger, path, spending, metrics, upstreams)
                try:
                    yield running
                finally:
                    for writer in running.writers:
                        writer.close()
        finally:
            await relay.close()
            ledger.close()


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, checked for Anthropic's shape."""
    found = response.json()
    assert found["type"] == "error"
    error: dict[str, Any] = found["error"]
    assert error["type"]
    assert error["message"]
    return error
