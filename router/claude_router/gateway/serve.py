"""`python -m claude_router.gateway`: the gateway, from settings to the last row of its ledger.

At the first SIGINT or SIGTERM it takes no more connections (a CLI tries again, with whoever is there then) and gives
running requests SHUTDOWN_GRACE_MS; a second signal ends it at once. Either way all that was metered is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_crds.access import AccessError, loader
from claude_crds.logs import configure
from claude_crds.settings import SettingsError, load
from claude_crds.tokens import KeyFileError, read_key, usage_token
from claude_router.gateway import prices
from claude_router.gateway.app import GatewayApp
from claude_router.gateway.callers import Credentials, StaticCredentials
from claude_router.gateway.cloud_models import read_ids
from claude_router.gateway.cluster import Cluster, GatewayApi
from claude_router.gateway.conversations import SessionStatuses
from claude_router.gateway.internal import Internal
from claude_router.gateway.ledger import MOST_WAITING, Ledger, LedgerError
from claude_router.gateway.meter import Heard, Meter
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.relay import Relay
from claude_router.gateway.retention import DAY_SECONDS, oldest_kept
from claude_router.gateway.settings import GatewaySettings, optional
from claude_router.gateway.spending import KEPT_SECONDS, Spending
from claude_router.gateway.status import TeamStatuses
from claude_router.gateway.teams import StaticTeams, Teams
from claude_router.gateway.upstreams import Upstreams
from claude_router.gateway.usage import by_team_and_day, last_sessions, of_session
from claude_router.serving import Server, Signals, cannot_listen, complain, listen, on_loop, server_of
from claude_worker.anthropic.errors import body as error_body
from claude_worker.bounds import Bounds

log = logging.getLogger(__name__)


_LAST_SECONDS = 7200.0
"""What began so long before the last gateway's end may not be in its conversation's status yet."""


@dataclass(frozen=True, slots=True)
class _Side:
    """Who may call, what holds for them, why that is not known yet, and who hears what they use."""

    credentials: Credentials
    teams: Teams
    problem: Callable[[], str]
    heard: Heard = lambda *_: None


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
    upstreams = Upstreams(
        optional(settings.upstream_dir), optional(settings.team_upstreams_dir), settings.upstream_url,
        kind=settings.upstream_kind, ids=read_ids(settings.upstream_models), betas=settings.upstream_betas,
    )  # fmt: skip
    upstreams.begin()
    stack.callback(upstreams.end)
    since = time.time() - KEPT_SECONDS
    return _Parts(settings, table, key, static, ledger, upstreams, Spending(by_team_and_day(path, since)))


async def _serve(parts: _Parts, workers: socket.socket, internal: socket.socket) -> int:
    signals = Signals()
    metrics = GatewayMetrics()
    settings = parts.settings
    pruning = asyncio.create_task(_prune(parts))
    async with _callers(parts) as side:
        meter = Meter(
            parts.ledger, parts.prices, parts.spending, metrics, side.teams.known,
            clock_offset=settings.clock_offset, heard=side.heard,
        )  # fmt: skip
        relay = Relay(meter, metrics, ceiling_percent=settings.budget_ceiling)
        app = GatewayApp(
            side.credentials,
            side.teams,
            parts.upstreams,
            relay,
            metrics,
            max_body_bytes=settings.max_body_bytes,
            most_at_a_time=settings.worker_requests,
        )

        def problem() -> str:
            full = "the ledger cannot keep up" if parts.ledger.waiting > MOST_WAITING else ""
            # Without a shared key each team has its own, and one that is missing is that team's trouble.
            each = settings.team_upstreams_dir and not settings.upstream_dir
            return side.problem() or parts.ledger.problem or full or ("" if each else parts.upstreams.problem)

        inside = Internal(
            Path(settings.ledger_file), metrics, usage_token(parts.key) if parts.key else "",
            problem=problem, waiting=lambda: parts.ledger.waiting,
        )  # fmt: skip
        servers = [server(app, settings.shutdown_grace), server(inside.app(), 1)]
        serving = [asyncio.create_task(s.serve([sock])) for s, sock in zip(servers, (workers, internal), strict=True)]
        where = {"port": workers.getsockname()[1], "internal_port": internal.getsockname()[1]}
        log.info("serving", extra={"fields": {**where, "prices": parts.prices.date}})
        try:
            await _until_stopped(signals, servers, serving)
        finally:
            pruning.cancel()
            await relay.close()
    return signals.exit_status if signals.first.is_set() else 1


@asynccontextmanager
async def _callers(parts: _Parts) -> AsyncIterator[_Side]:
    if parts.static is not None:
        yield _Side(parts.static, StaticTeams(), lambda: "")
        return
    api = GatewayApi(loader())
    async with api:
        cluster = Cluster(api, parts.settings.namespace or await api.namespace(), parts.settings)
        statuses = TeamStatuses(
            lambda: tuple(cluster.teams.items()), parts.spending, cluster.write_status,
            tell=cluster.tell, clock=lambda: time.time() + parts.settings.clock_offset,
        )  # fmt: skip
        cluster.teams.listen(lambda *_: statuses.ring())
        path, began = Path(parts.settings.ledger_file), time.time()
        sessions = SessionStatuses(
            cluster.sessions.get,
            lambda name, since: asyncio.to_thread(of_session, path, name, since, began),
            cluster.write_session,
        )
        cluster.sessions.listen(sessions.listener)
        cluster.begin()
        writing = [asyncio.create_task(statuses.run()), asyncio.create_task(_write_sessions(cluster, sessions, path))]
        try:
            yield _Side(cluster.credentials, cluster.policies, lambda: cluster.problem, sessions.add)
        finally:
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)
            await cluster.close()


async def _write_sessions(cluster: Cluster, sessions: SessionStatuses, path: Path) -> None:
    await cluster.sessions.wait_synced()
    sessions.look_again(await asyncio.to_thread(last_sessions, path, _LAST_SECONDS))
    await sessions.run()


async def _prune(parts: _Parts) -> None:
    while parts.settings.retention_days:
        parts.ledger.prune(oldest_kept(time.time(), parts.settings.retention_days))
        await asyncio.sleep(DAY_SECONDS)


def server(app: Any, grace: float, bounds: Bounds | None = None) -> Server:
    """The server of either listener; `grace` as for `server_of`."""
    return server_of(app, grace=grace, lifespan="off", form=lambda error, _: error_body(error), bounds=bounds)


async def _until_stopped(signals: Signals, servers: list[Server], serving: list[asyncio.Task[None]]) -> None:
    first: asyncio.Task[Any] = asyncio.create_task(signals.first.wait())
    await asyncio.wait([first, *serving], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    second: asyncio.Task[Any] = asyncio.create_task(signals.second.wait())
    workers = servers[0]
    workers.should_exit = True
    await asyncio.wait([serving[0], second], return_when=asyncio.FIRST_COMPLETED)
    for each in servers:
        each.should_exit = True
        each.force_exit = signals.second.is_set()
    if signals.second.is_set():
        for task in workers.server_state.tasks:
            task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    for task in (first, second):
        task.cancel()
