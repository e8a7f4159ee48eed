"""`python -m claude_router.cluster`: the endpoint on a cluster, from settings to the last byte of the last stream.

At the first SIGINT or SIGTERM, /health fails, so that no more requests are sent here; for DRAIN_DELAY_MS those that
come are still taken, then refused. Running turns may end within SHUTDOWN_GRACE_MS; what is left is told that the
server ends. A second signal ends it at once. The workers go on: they belong to no router.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

from starlette.responses import Response

import claude_crds
from claude_crds.access import AccessError, loader
from claude_crds.api import Api
from claude_crds.settings import SettingsError, load
from claude_crds.tokens import KeyFileError, read_key, usage_token
from claude_router import audit
from claude_router.access import Access
from claude_router.app import create_app
from claude_router.auth import ApiKeys
from claude_router.cluster.keys import KeyFolder
from claude_router.cluster.sessions import KubernetesSessions, Pace
from claude_router.cluster.settings import ClusterSettings, LiveSettings
from claude_router.cluster.teams import TeamWatch
from claude_router.logs import configure
from claude_router.running import Running
from claude_router.serving import Server, Signals, cannot_listen, complain, listen, on_loop, server_of
from claude_router.usage import Usage

log = logging.getLogger(__name__)

_LAST_BYTES_SECONDS = 5.0
"""After the last turn, how long a slow client may take to read the end of its answer."""
_CLOSE = (b"connection", b"close")


def main() -> int:
    """Run until a signal; returns the exit status: 0, 1 (cannot run), 2 (settings), 128 + signal (stopped twice)."""
    try:
        settings = load(ClusterSettings, os.environ)
        if not settings.worker_key_file:
            raise SettingsError("WORKER_KEY_FILE: must name the file with the workers' key")
        key = read_key(Path(settings.worker_key_file))
    except (SettingsError, KeyFileError) as error:
        complain(str(error))
        return 2
    configure(settings.log_format)
    folder = KeyFolder(settings.api_keys_path) if settings.api_keys_path else None
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        complain(cannot_listen(settings.host, settings.port, error))
        return 1
    with sock:
        if folder:
            folder.begin()
        try:
            with audit.writing(settings.audit_log):
                return on_loop(lambda: _serve(settings, key, folder.keys if folder else ApiKeys(), sock))
        except (AccessError, audit.CannotWrite) as error:
            complain(str(error))
            return 1
        finally:
            if folder:
                folder.end()


async def _serve(settings: ClusterSettings, key: bytes, keys: ApiKeys, sock: socket.socket) -> int:
    signals = Signals()
    running = Running()
    async with Api(loader()) as api:
        namespace = settings.namespace or await api.namespace()
        teams = TeamWatch(api, namespace) if settings.teams else None
        home = {"home": teams.side.teams.home} if teams else {}
        sessions = KubernetesSessions(
            api, namespace, settings.pool, key, pace=Pace(grace=settings.shutdown_grace), busy=running.has,
            also=teams.reflectors if teams else (), **home,
        )  # fmt: skip
        live = LiveSettings(settings, **home)
        sessions.pools.listen(live.changed)
        sessions.begin()
        app = create_app(
            live, sessions, version=claude_crds.__version__, access=Access(keys, teams.side if teams else None),
            usage=Usage(settings.gateway_url, usage_token(key)), running=running, audited=bool(settings.audit_log),
            team_metrics=settings.team_metrics, git_hosts=sessions.git_hosts,
        )  # fmt: skip
        app.add_api_route("/livez", _alive, tags=["Operation"])
        server = server_of(app, grace=_LAST_BYTES_SECONDS)
        serving = asyncio.create_task(server.serve([sock]))
        where = {"namespace": namespace, "pool": settings.pool, "port": sock.getsockname()[1]}
        log.info("serving", extra={"fields": where})
        try:
            await _until_stopped(settings, server, serving, running, signals)
        finally:
            await sessions.close()
    return signals.exit_status if signals.first.is_set() else 1


async def _alive() -> Response:
    """Whether the process answers at all; whatever the cluster and its workers do. Needs no API key."""
    return Response("ok", media_type="text/plain")


async def _until_stopped(
    settings: ClusterSettings, server: Server, serving: asyncio.Task[None], running: Running, signals: Signals
) -> None:
    first = asyncio.create_task(signals.first.wait())
    second = asyncio.create_task(signals.second.wait())
    await asyncio.wait([serving, first], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: no more requests should be sent here")
    running.announce()
    # Clients that keep connections open would never learn that they are to go elsewhere.
    server.config.encoded_headers.append(_CLOSE)
    server.server_state.default_headers.append(_CLOSE)
    await asyncio.wait([serving, second], timeout=settings.drain_delay, return_when=asyncio.FIRST_COMPLETED)
    running.drain()
    ended = asyncio.create_task(running.idle(settings.shutdown_grace))
    await asyncio.wait([serving, second, ended], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    if running.count:
        log.warning("%d turns have not ended and are cut off", running.count)
        for turn in server.server_state.tasks:
            turn.cancel()  # each still tells its client why
    await serving
    for task in (first, second, ended):
        task.cancel()
