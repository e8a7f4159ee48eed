"""Teams and their keys on a cluster: copies of the ClaudeTeams and of the eight Secrets with keys' hashes, by watches.

So a key that is revoked, and a team that is changed, is so here as soon as the API server tells. While that one cannot
be reached, both stay as they were; a key's own end needs nobody to tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from claude_crds.api import Api
from claude_crds.apikeys import SHARDS, decode_shard, shard_name
from claude_crds.cache import Change
from claude_crds.reflector import Reflector
from claude_crds.resources import SECRETS, TEAMS
from claude_crds.views import ClaudeTeam, Secret
from claude_router.access import TeamSide
from claude_router.teams import Teams

log = logging.getLogger(__name__)


class TeamWatch:
    """`side` is always as the copies are. `reflectors` are to be run by whoever runs the others, too."""

    def __init__(self, api: Api, namespace: str, **options: Any) -> None:
        """`options`: of Reflector."""
        self.teams: Reflector[ClaudeTeam] = Reflector(api, TEAMS, namespace, **options)
        self.shards: list[Reflector[Secret]] = []
        self.side = TeamSide(Teams(), ready=self.ready)
        self.teams.listen(self.side.teams.changed)
        for shard in range(SHARDS):
            name = shard_name(shard)
            # By name: no right to read other Secrets is needed.
            reflector = Reflector(api, SECRETS, namespace, field_selector=f"metadata.name={name}", **options)
            reflector.listen(self._follower(shard, name))
            self.shards.append(reflector)

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        return (self.teams, *self.shards)

    def ready(self) -> bool:
        """Whether all have been listed. Before that nobody knows who may use the endpoint."""
        return self.teams.synced and all(shard.synced for shard in self.shards)

    def _follower(self, shard: int, name: str) -> Callable[[Change, Secret | None, Secret | None], None]:
        def changed(_: Change, __: Secret | None, new: Secret | None) -> None:
            records = decode_shard(new.data) if new is not None else {}
            if new is not None and len(records) < len(new.data):
                log.error("%d entries of the Secret %s are no API keys and are left out", len(new.data) - len(records),
                          name)  # fmt: skip
            self.side.ring.replace_shard(shard, records)

        return changed
