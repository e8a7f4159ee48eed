"""`python -m claude_router.gateway`: the gateway, from settings to the last row of its ledger.

At the first SIGINT or SIGTERM it takes no more connections (a CLI tries again, with whoever is there then) and gives
running requests SHUTDOWN_GRACE_MS; a second signal ends it at once. Either way all that was metered is written.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from claude_crds.access import AccessError, loader
from claude_crds.logs import configure
from claude_crds.settings import SettingsError, load
from claude_crds.tokens import KeyFileError, read_key
from claude_router.gateway import prices
from claude_router.gateway.app import GatewayApp
from claude_router.gateway.callers import Credentials, StaticCredentials
from claude_router.gateway.cluster import Cluster, GatewayApi
from claude_router.gateway.internal import Internal, usage_token
from claude_router.gateway.ledger import MOST_WAITING, Ledger, LedgerError
from claude_router.gateway.meter import Meter
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.relay import Relay
from claude_router.gateway.settings import GatewaySettings, optional
from claude_router.gateway.spending import KEPT_SECONDS, Spending
from claude_router.gateway.status import TeamStatuses
from claude_router.gateway.teams import StaticTeams, Teams
from claude_router.gateway.upstreams import Upstreams
from claude_router.gateway.usage import by_team_and_day
from claude_router.serving import Server, Signals, cannot_listen, complain, listen, on_loop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is there before the event loop."""

    settings: GatewaySettings
    prices: prices.Prices
    key: bytes
    static: StaticCredentials | None
    ledger: Ledger
    upstreams: Upstreams
    spending: Spending


def main() -> int:
    """Run until a signal; returns the exit status: 0, 1 (cannot run), 2 (settings), 128 + signal (stopped twice)."""
    try:
        settings = load(GatewaySettings, os.environ)
        table = prices.read(optional(settings.prices_file))
        key = read_key(Path(settings.worker_key_file)) if settings.worker_key_file else b""
        static = StaticCredentials.read(Path(settings.credentials_file)) if settings.credentials_file else None
    except (SettingsError, KeyFileError) as error:
        complain(str(error))
        return 2
    configure(settings.log_format)
    with ExitStack() as stack:
        ports = []
        for port in (settings.port, settings.internal_port):
            try:
                ports.append(stack.enter_context(listen(settings.host, port)))
            except OSError as error:
                complain(cannot_listen(settings.host, port, error))
                return 1
        try:
            parts = _parts(stack, settings, table, key, static)
            return on_loop(lambda: _serve(parts, *ports))
        except (AccessError, LedgerError) as error:
            complain(str(error))
            return 1


def _parts(
    stack: ExitStack, settings: GatewaySettings, table: prices.Prices, key: bytes, static: StaticCredentials | None
) -> _Parts:
    """All that follows files, begun; it ends with the stack. Raises LedgerError."""
    path = Path(settings.ledger_file)
    ledger = Ledger(path)
    if lost := ledger.open():
        log.warning("%d requests were running when the last gateway died; they are in the ledger, unpriced", lost)
    stack.callback(ledger.close)
    upstreams = Upstreams(optional(settings.upstream_dir), optional(settings.team_upstreams_dir), settings.upstream_url)
    upstreams.begin()
    stack.callback(upstreams.end)
    since = time.time() - KEPT_SECONDS
    return _Parts(settings, table, key, static, ledger, upstreams, Spending(by_team_and_day(path, since)))


async def _serve(parts: _Parts, workers: socket.socket, internal: socket.socket) -> int:
    signals = Signals()
    metrics = GatewayMetrics()
    settings = parts.settings
    async with _callers(parts) as (credentials, teams, cluster_problem):
        meter = Meter(parts.ledger, parts.prices, parts.spending, metrics, teams.known)
        relay = Relay(meter, metrics, ceiling_percent=settings.budget_ceiling)
        app = GatewayApp(credentials, teams, parts.upstreams, relay, metrics, max_body_bytes=settings.max_body_bytes)

        def problem() -> str:
            full = "the ledger cannot keep up" if parts.ledger.waiting > MOST_WAITING else ""
            return cluster_problem() or parts.ledger.problem or full or parts.upstreams.problem

        inside = Internal(
            Path(settings.ledger_file), metrics, usage_token(parts.key) if parts.key else "",
            problem=problem, waiting=lambda: parts.ledger.waiting,
        )  # fmt: skip
        servers = [_server(app, settings.shutdown_grace), _server(inside.app(), 1)]
        serving = [asyncio.create_task(s.serve([sock])) for s, sock in zip(servers, (workers, internal), strict=True)]
        where = {"port": workers.getsockname()[1], "internal_port": internal.getsockname()[1]}
        log.info("serving", extra={"fields": {**where, "prices": parts.prices.date}})
        try:
            await _until_stopped(signals, servers, serving)
        finally:
            await relay.close()
    return signals.exit_status if signals.first.is_set() else 1


@asynccontextmanager
async def _callers(parts: _Parts) -> AsyncIterator[tuple[Credentials, Teams, Callable[[], str]]]:
    """Who may call, what holds for them, and why that is not known yet."""
    if parts.static is not None:
        yield parts.static, StaticTeams(), lambda: ""
        return
    api = GatewayApi(loader())
    async with api:
        cluster = Cluster(api, parts.settings.namespace or await api.namespace(), parts.settings)
        statuses = TeamStatuses(lambda: tuple(cluster.teams.items()), parts.spending, cluster.write_status)
        cluster.teams.listen(lambda *_: statuses.ring())
        cluster.begin()
        writing = asyncio.create_task(statuses.run())
        try:
            yield cluster.credentials, cluster.policies, lambda: cluster.problem
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await cluster.close()


def _server(app: Any, grace: float) -> Server:
    server = Server(uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", http="httptools", ws="none", server_header=False,
        timeout_graceful_shutdown=int(grace),
    ))  # fmt: skip
    gc.collect()
    gc.freeze()
    return server


async def _until_stopped(signals: Signals, servers: list[Server], serving: list[asyncio.Task[None]]) -> None:
    first: asyncio.Task[Any] = asyncio.create_task(signals.first.wait())
    await asyncio.wait([first, *serving], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    second: asyncio.Task[Any] = asyncio.create_task(signals.second.wait())
    workers = servers[0]
    workers.should_exit = True
    await asyncio.wait([serving[0], second], return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
        server.force_exit = signals.second.is_set()
    if signals.second.is_set():
        for task in workers.server_state.tasks:
            task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    for task in (first, second):
        task.cancel()
