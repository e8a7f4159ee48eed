"""API keys that end soon, or have ended: what a team's conditions and Events say of them.

Only the eight Secrets with keys' hashes are read, each by its name and now and then: nothing of this is urgent. What
the conditions name was told; so each key is told of once, whoever leads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.apikeys import EXPIRING_SECONDS, SHARDS, KeyRecord, decode_shard, shard_name
from claude_crds.errors import ApiError, Forbidden, NotFound
from claude_crds.events import Notice
from claude_crds.resources import SECRETS, timestamp
from claude_crds.teams import Aspect
from claude_crds.views import ClaudeTeam, condition

log = logging.getLogger(__name__)

POLL_SECONDS = 30.0
MOST_NAMED = 20
"""Keys that a condition names; of more it says how many."""


class Found(NamedTuple):
    """One aspect of a team: whether it holds, and why."""

    type: Aspect
    holds: bool
    reason: str
    message: str


class Told(NamedTuple):
    """What an Event says."""

    reason: Notice
    message: str


def aspects(records: Iterable[KeyRecord], now: float) -> tuple[Found, Found]:
    """KeyExpiring and KeyExpired of the team that these keys are of."""
    soon, over = ([_named(record) for record in found] for found in _ending(records, now))
    return (
        Found(Aspect.KEY_EXPIRING, bool(soon), "ExpiresSoon" if soon else "NoneExpires",
              f"Expires soon: {_list(soon)}." if soon else "No key expires within 7 days."),
        Found(Aspect.KEY_EXPIRED, bool(over), "Expired" if over else "NoneExpired",
              f"Expired: {_list(over)}; claude-code-api keys revoke ID takes it off the list." if over
              else "No key has expired."),
    )  # fmt: skip


def news(team: ClaudeTeam, records: Iterable[KeyRecord], now: float) -> list[Told]:
    """The Events about keys that the team's conditions do not name yet, but will: so none is told of twice."""
    found: list[Told] = []
    soon, over = _ending(records, now)
    for keys, aspect, reason, verb in (
        (over, Aspect.KEY_EXPIRED, Notice.KEY_EXPIRED, "has expired, at"),
        (soon, Aspect.KEY_EXPIRING, Notice.KEY_EXPIRING, "expires at"),
    ):
        before = condition(team.status.conditions, aspect)
        named = before.message if before is not None and before.status == "True" else ""
        for record in keys[:MOST_NAMED]:
            if record.id not in named:
                name = f" ({record.name})" if record.name else ""
                found.append(Told(reason, f"The API key {record.id}{name} {verb} {timestamp(record.expires or 0.0)}."))
    return found


def _ending(records: Iterable[KeyRecord], now: float) -> tuple[list[KeyRecord], list[KeyRecord]]:
    """Those that end soon, and those that have ended, each in the order of their ends."""
    ending = sorted(
        (r.expires, r.id, r) for r in records if r.expires is not None and r.expires <= now + EXPIRING_SECONDS
    )
    return [r for end, _, r in ending if end > now], [r for end, _, r in ending if end <= now]


def _named(record: KeyRecord) -> str:
    name = f" ({record.name})" if record.name else ""
    return f"{record.id}{name} at {timestamp(record.expires or 0.0)}"


def _list(named: Sequence[str]) -> str:
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return ", ".join(named[:MOST_NAMED]) + more


class TeamKeys:
    """The keys of each team. `of` is None as long as they may not be, or could not be, read."""

    def __init__(self, api: Api, namespace: str, needed: Callable[[], bool], changed: Callable[[], None]) -> None:
        """Nothing is read while they are not `needed`; `changed` is called after each look."""
        self._api = api
        self._namespace = namespace
        self._needed = needed
        self._changed = changed
        self._by_team: dict[str, list[KeyRecord]] | None = None
        self._told = False

    def of(self, team: str) -> Sequence[KeyRecord] | None:
        return None if self._by_team is None else self._by_team.get(team, ())

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            if self._needed():
                await self.look()
                self._changed()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Read them all; those of before stay if that fails."""
        found: dict[str, list[KeyRecord]] = {}
        try:
            for shard in range(SHARDS):
                for record in (await self._shard(shard)).values():
                    found.setdefault(record.team, []).append(record)
        except Forbidden as error:
            if not self._told:
                log.warning("API keys that expire are not told of: %s", error)
            self._told, self._by_team = True, None
        except (ApiError, AccessError, msgspec.MsgspecError) as error:
            log.warning("the API keys could not be read: %s", error)
        else:
            self._told, self._by_team = False, found

    async def _shard(self, shard: int) -> dict[str, KeyRecord]:
        try:
            return decode_shard((await self._api.get(SECRETS, self._namespace, shard_name(shard))).data)
        except NotFound:
            return {}
