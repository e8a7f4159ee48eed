"""A team side to put keys and teams into, and the door over it."""

from __future__ import annotations

from typing import Any

import msgspec

from claude_crds.apikeys import KeyRecord, make
from claude_crds.views import ClaudeTeam
from claude_router.access import Access, TeamSide
from claude_router.auth import ApiKeys
from claude_router.teams import Teams

NOW = 1_900_000_000.0
"""2030-03-17T17:46:40Z."""


def team(name: str = "red", status: dict[str, Any] | None = None, **spec: Any) -> ClaudeTeam:
    """A ClaudeTeam; `spec` as in its manifest."""
    return msgspec.convert({"metadata": {"name": name}, "spec": spec, "status": status or {}}, ClaudeTeam)


class Desk:
    """Its clock stands still until the test moves `now`."""

    def __init__(self, *teams: ClaudeTeam, static: tuple[str, ...] = (), listed: bool = True, **side: Any) -> None:
        self.now = NOW
        self._records: dict[str, KeyRecord] = {}
        self.side = TeamSide(Teams(listed=listed), **side)
        self.side.teams.replace(teams)
        self.access = Access(ApiKeys(static), self.side, now=lambda: self.now)

    def key(self, name: str, expires: float | None = None) -> str:
        """A new key of the team."""
        text, record = make(name, "", NOW, expires)
        self._records[record.id] = record
        self.side.ring.replace(self._records)
        return text

    def revoke(self, text: str) -> None:
        del self._records[text.split("_")[1]]
        self.side.ring.replace(self._records)
