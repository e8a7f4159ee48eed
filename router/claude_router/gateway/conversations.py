"""What each conversation has used, in its ClaudeSession's status: the gateway's word, not its worker's.

The figures are those of the ledger from before this process (asked for once a conversation), and what was added since.
A conversation's own begin where it was created: an earlier one of its name was another. Where its status says more than
the ledger, that holds: it was used before there was a gateway, or its requests are kept as sums only.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from claude_crds.access import AccessError
from claude_crds.cache import Change
from claude_crds.errors import ApiError, NotFound
from claude_crds.views import ClaudeSession, Usage
from claude_router.gateway.callers import Caller
from claude_router.gateway.scan import Counted
from claude_router.gateway.spending import added, total
from claude_router.gateway.status import usage_of
from claude_router.gateway.usage import Used

log = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
"""The most often that one conversation's figures are written."""
BATCH = 25
"""So many are written at once, and then nothing for PAUSE_SECONDS."""
PAUSE_SECONDS = 1.0
_RETRY_SECONDS = 5.0

Json = dict[str, Any]
Earlier = Callable[[str, float], Awaitable[Used]]
"""What a session (by name) has used from then (Unix time) until this process began; raises sqlite3.Error."""
Write = Callable[[ClaudeSession, Json], Awaitable[None]]
"""Applies the session's status, to it and to no later one of its name; raises ApiError."""


@dataclass(slots=True)
class _Figures:
    uid: str
    spent: Used
    earlier: Used | None = None
    ready: float = 0.0


class SessionStatuses:
    """Belongs to the event loop. `clock` is Unix time; which figures are to be written is `due`."""

    def __init__(
        self,
        sessions: Callable[[str], ClaudeSession | None],
        earlier: Earlier,
        write: Write,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sessions = sessions
        self._earlier = earlier
        self._write = write
        self._clock = clock
        self._figures: dict[str, _Figures] = {}
        self._waiting: dict[str, None] = {}
        self._bell = asyncio.Event()

    def add(self, caller: Caller, counted: Counted, cost: float) -> None:
        """A request of the caller's session is over."""
        session = self._sessions(caller.session)
        if session is None or session.metadata.uid != caller.uid:
            return  # it has been deleted meanwhile
        figures = self._figures.get(caller.session)
        if figures is None or figures.uid != caller.uid:
            figures = self._figures[caller.session] = _Figures(caller.uid, Used())
        figures.spent = added(figures.spent, counted, cost)
        self._waiting[caller.session] = None
        self._bell.set()

    def look_again(self, sessions: Iterable[str]) -> None:
        """What an earlier process has not come to write about these."""
        for name in sessions:
            session = self._sessions(name)
            if session is not None and name not in self._figures:
                self._figures[name] = _Figures(session.metadata.uid, Used())
                self._waiting[name] = None

    def listener(self, change: Change, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        """See `claude_crds.cache.Listener`: what is deleted is forgotten."""
        if change == "deleted" and old is not None:
            self._figures.pop(old.name, None)
            self._waiting.pop(old.name, None)

    def due(self, now: float) -> tuple[list[str], float | None]:
        """The sessions to write now, BATCH at most; and, if there are none, when there will be (None: nobody knows)."""
        found: list[str] = []
        wake: float | None = None
        for name in self._waiting:
            ready = self._figures[name].ready
            if ready > now:
                wake = ready if wake is None else min(wake, ready)
            elif len(found) < BATCH:
                found.append(name)
        return found, wake

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._bell.clear()
            due, wake = self.due(self._clock())
            if due:
                await asyncio.gather(*map(self._put, due))
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                async with asyncio.timeout(None if wake is None else max(0.0, wake - self._clock())):
                    await self._bell.wait()
            except TimeoutError:
                continue

    async def _put(self, name: str) -> None:
        session, figures = self._sessions(name), self._figures.get(name)
        if session is None or figures is None or session.metadata.uid != figures.uid:
            self._forget(name, figures)
            return
        figures.ready = self._clock() + WRITE_SECONDS
        try:
            if figures.earlier is None:
                created = session.metadata.creation_timestamp
                found = await self._earlier(name, created.timestamp() if created else 0.0)
                figures.earlier = _most(found, session.status.usage)
            spent = figures.spent
            status = status_of(figures.earlier, spent)
            if status["usage"] != usage_of(session.status.usage):
                await self._write(session, status)
        except NotFound:
            self._forget(name, figures)
        except (ApiError, AccessError, sqlite3.Error) as error:
            log.warning("a conversation's figures could not be written: %s", error)
            figures.ready = self._clock() + _RETRY_SECONDS
        else:
            if figures.spent is spent and self._figures.get(name) is figures:
                self._waiting.pop(name, None)

    def _forget(self, name: str, figures: _Figures | None) -> None:
        if self._figures.get(name) is figures:
            self._figures.pop(name, None)
            self._waiting.pop(name, None)


def _most(found: Used, told: Usage) -> Used:
    return msgspec.structs.replace(
        found,
        input_tokens=max(found.input_tokens, told.input_tokens),
        output_tokens=max(found.output_tokens, told.output_tokens),
        cached_tokens=max(found.cached_tokens, told.cached_tokens),
        cost_usd=max(found.cost_usd, told.cost_usd),
    )


def status_of(earlier: Used, spent: Used) -> Json:
    """The part of a ClaudeSession's status that is the gateway's."""
    return {"usage": usage_of(total("", [earlier, spent]))}
