"""`python -m claude_router`: the endpoint on one machine, from settings to the last reaped process.

The first SIGINT or SIGTERM lets running turns end (for SHUTDOWN_GRACE_MS at most) and suspends every conversation; a
second one kills the workers. Either way nothing is left running.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import claude_crds
from claude_crds.settings import SettingsError, load
from claude_router import audit
from claude_router.access import Access, TeamSide
from claude_router.app import create_app
from claude_router.auth import ApiKeys
from claude_router.local.banner import banner, permission_problem, url_of
from claude_router.local.demo_model import DemoFailed, DemoModel
from claude_router.local.environment import CREDENTIALS, passed_on, worker_environment
from claude_router.local.pool import LocalSessions, PoolLimits
from claude_router.local.store import Store, StoreError
from claude_router.local.teams import TeamFiles, TeamsFileError
from claude_router.local.workers import Launch
from claude_router.logs import configure
from claude_router.serving import Signals, cannot_listen, complain, listen, on_loop, server_of
from claude_router.settings import RouterSettings

log = logging.getLogger(__name__)

_LAST_BYTES_SECONDS = 10.0
"""After the last worker is gone, how long a slow client may take to read the end of its answer."""

# `-P`: the working directory is not where Python looks for modules.
WORKER_COMMAND = (sys.executable, "-P", "-m", "claude_worker")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: checked settings, and what the banner says about them."""

    settings: RouterSettings
    demo: bool
    permission_note: str
    teams: TeamFiles | None = None


def plan(environ: Mapping[str, str]) -> Plan:
    """Read and check the settings. Raises SettingsError."""
    settings = load(RouterSettings, environ)
    if not settings.workspace_per_conversation and settings.workspace_path is None:
        raise SettingsError("WORKSPACE_PER_CONVERSATION='false': needs WORKSPACE_DIR, the one folder for all")
    problem = permission_problem(settings, environ)
    if problem and environ.get("PERMISSION_MODE"):
        raise SettingsError(problem)
    if problem:
        settings = replace(settings, permission_mode="acceptEdits")
    return Plan(settings, not any(environ.get(name) for name in CREDENTIALS), problem or "", _teams(settings))


def _teams(settings: RouterSettings) -> TeamFiles | None:
    """Teams' files, if any are named. Raises SettingsError when the list of teams cannot be read."""
    if settings.api_keys_path is None and settings.teams_path is None:
        return None
    files = TeamFiles(settings.api_keys_path, settings.teams_path)
    try:
        files.check()
    except (TeamsFileError, OSError) as error:
        raise SettingsError(f"TEAMS_FILE={settings.teams_file!r}: {error}") from error
    return files


def main() -> int:
    """Run until a signal; returns the exit status: 0, 1 (cannot run), 2 (settings), 128 + signal (stopped twice)."""
    try:
        chosen = plan(os.environ)
    except SettingsError as error:
        complain(str(error))
        return 2
    settings = chosen.settings
    configure(settings.log_format)
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        complain(cannot_listen(settings.host, settings.port, error))
        return 1
    with sock:
        try:
            store = Store.open(
                settings.sessions_path,
                workspace_dir=settings.workspace_path,
                per_conversation=settings.workspace_per_conversation,
            )
        except StoreError as error:
            complain(str(error))
            return 1
        try:
            with audit.writing(settings.audit_log), chosen.teams.followed() if chosen.teams else nullcontext() as side:
                return on_loop(lambda: _serve(chosen, sock, store, side))
        except (DemoFailed, audit.CannotWrite) as error:
            complain(str(error))
            return 1
        finally:
            store.close()


async def _serve(chosen: Plan, sock: socket.socket, store: Store, side: TeamSide | None) -> int:
    settings = chosen.settings
    signals = Signals()
    demo = DemoModel()
    try:
        environ = dict(os.environ)
        if chosen.demo:
            environ |= await demo.start(passed_on(environ))
        limits = PoolLimits(settings.pool_size, settings.warm_workers, settings.idle_timeout, settings.shutdown_grace)
        launch = Launch(WORKER_COMMAND, worker_environment(settings, environ))
        sessions = LocalSessions(store, launch, limits, shares=side.teams.shares if side else dict)
        sessions.begin()
        url = url_of(settings.host, sock.getsockname()[1])
        print(banner(settings, url, demo=chosen.demo, permission_note=chosen.permission_note), flush=True)
        await _until_stopped(settings, sock, sessions, signals, side)
        return signals.exit_status
    finally:
        await demo.stop()


async def _until_stopped(
    settings: RouterSettings, sock: socket.socket, sessions: LocalSessions, signals: Signals, side: TeamSide | None
) -> None:
    access = Access(ApiKeys(settings.api_keys), side)
    audited = bool(settings.audit_log)
    app = create_app(
        settings, sessions, version=claude_crds.__version__, access=access, audited=audited,
        team_metrics=settings.team_metrics, git_hosts=lambda _: settings.workspace_git_hosts,
    )  # fmt: skip
    server = server_of(app, grace=settings.shutdown_grace + _LAST_BYTES_SECONDS)
    serving = asyncio.create_task(server.serve([sock]))
    first = asyncio.create_task(signals.first.wait())
    await asyncio.wait([serving, first], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: conversations are being suspended")
    app.state.running.drain()
    sessions.refuse()
    server.should_exit = True
    closing = asyncio.create_task(sessions.close(settings.shutdown_grace))
    second = asyncio.create_task(signals.second.wait())
    await asyncio.wait([closing, second], return_when=asyncio.FIRST_COMPLETED)
    if signals.second.is_set():
        server.force_exit = True
        sessions.kill()
    await closing
    await serving
    for task in (first, second):
        task.cancel()
