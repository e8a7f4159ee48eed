"""Where in the CLI's memory a process begins, and until when that memory is on the volume."""

from __future__ import annotations

import asyncio
import logging
import uuid
from pathlib import Path

from claude_worker import cli
from claude_worker.history import Node
from claude_worker.ledger import Ledger
from claude_worker.prefixes import EMPTY
from claude_worker.settings import WorkerSettings
from claude_worker.setup import Setup

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0
_FLUSH_PAUSE_SECONDS = 0.02
_TAIL = 1 << 20


def _fork(ledger: Ledger, config_dir: Path) -> tuple[str, str] | None:
    fork = ledger.state.fork
    return fork if fork and cli.transcript_path(config_dir, fork[0]) else None


def session_of(ledger: Ledger, config_dir: Path, spare: str) -> str:
    """The Claude session that a process is to have: the conversation's, else `spare`, else a new one.

    A conversation whose transcript is lost begins anew, and its ledger forgets it.
    """
    state = ledger.state
    known = state.claude_session_id
    if not known:
        return spare or str(uuid.uuid4())
    begun = bool(ledger.nodes) and state.tip != EMPTY
    if begun and cli.transcript_path(config_dir, known) is None and _fork(ledger, config_dir) is None:
        log.error("the transcript of %s is not on the volume; it begins anew", known)
        ledger.forget()
        return str(uuid.uuid4())
    return known


def arguments(ledger: Ledger, settings: WorkerSettings, setup: Setup, session: str) -> tuple[bool, list[str]]:
    """Whether the process goes on from what there was, and the arguments that make it."""
    resume = ledger.state.claude_session_id and cli.transcript_path(settings.config_dir, session) is not None
    fork = None if resume else _fork(ledger, settings.config_dir)
    goes_on = bool(resume or fork)
    return goes_on, cli.session_arguments(
        settings,
        session,
        resume=bool(resume),
        fork_of=fork[0] if fork else "",
        resume_at=fork[1] if fork else "",
        own_tools=setup.own_tools,
        model=ledger.state.model if goes_on else "",
        effort=setup.effort,
    )


async def flushed(ledger: Ledger, config_dir: Path) -> None:
    """Until the transcript on the volume holds what the conversation is at; the CLI writes it a little later."""
    node = ledger.nodes.get(ledger.state.tip)
    if node is None:
        return
    deadline = asyncio.get_running_loop().time() + _FLUSH_SECONDS
    while not await asyncio.to_thread(_holds, config_dir, node):
        if asyncio.get_running_loop().time() > deadline:
            log.warning("the CLI has not written message %s", node.uuid)
            return
        await asyncio.sleep(_FLUSH_PAUSE_SECONDS)


def _holds(config_dir: Path, node: Node) -> bool:
    # A session's first turn may end before its transcript is there at all.
    path = cli.transcript_path(config_dir, node.session)
    return path is not None and _ends_with(path, node.uuid.encode())


def _ends_with(path: Path, text: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return text in file.read()
