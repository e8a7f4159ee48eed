"""Records of keys in the Secrets of a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.apikeys import LABELS, SHARDS, KeyRecord, decode_shard, encode, shard_name, shard_of
from claude_crds.errors import AlreadyExists, ApiError, Conflict, Forbidden, NotFound, Unavailable
from claude_crds.resources import SECRETS, TEAMS
from claude_crds.views import Secret
from claude_router.keys_command.store import Kept, KeysError, taken, unknown

PATIENCE = 60.0
"""Seconds in which a change must succeed while others change the same Secret."""


class ClusterKeys:
    """The namespace's keys. `namespace` is the credentials' own unless given."""

    def __init__(self, api: Api, namespace: str = "") -> None:
        self._api = api
        self._namespace = namespace

    async def read(self) -> Kept:
        namespace = await self._where()
        shards = await asyncio.gather(*(self._shard(namespace, number) for number in range(SHARDS)))
        records: dict[str, KeyRecord] = {}
        odd: list[str] = []
        for number, shard in enumerate(shards):
            # What lies in another Secret than its id says is found by nobody.
            read = {i: r for i, r in decode_shard(shard.data if shard else {}).items() if shard_of(i) == number}
            records |= read
            odd += [f"{shard_name(number)}/{name}" for name in (shard.data if shard else {}) if name not in read]
        return Kept(records, tuple(odd))

    async def check_team(self, team: str) -> None:
        namespace = await self._where()
        async with _explained():
            try:
                found = await self._api.get(TEAMS, namespace, team)
            except NotFound as error:
                raise KeysError(f"there is no ClaudeTeam {team} in the namespace {namespace}: make it first") from error
        if found.leaving:
            raise KeysError(f"the ClaudeTeam {team} in the namespace {namespace} is being deleted")

    async def add(self, record: KeyRecord) -> None:
        def patch(shard: Secret | None) -> dict[str, Any]:
            if shard and record.id in shard.data:
                raise taken(record.id)
            return {"data": {record.id: encode(record)}}

        try:
            await self._change(record.id, patch)
        except KeysError as error:
            if isinstance(error.__cause__, Unavailable):
                raise KeysError(
                    f"{error}\nWhether the key {record.id} was made is unknown. If `keys list` shows it, revoke it: "
                    "nobody has it."
                ) from error.__cause__
            raise

    async def remove(self, key_id: str) -> None:
        def patch(shard: Secret | None) -> dict[str, Any]:
            if shard is None or key_id not in shard.data:
                raise unknown(key_id)
            return {"data": {key_id: None}}

        await self._change(key_id, patch)

    async def _change(self, key_id: str, patch: Callable[[Secret | None], dict[str, Any]]) -> None:
        """Apply what `patch` makes of the id's Secret as it is; if another was faster, decide anew."""
        namespace, number = await self._where(), shard_of(key_id)
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    shard = await self._shard(namespace, number)
                    if await self._written(namespace, shard_name(number), shard, patch(shard)):
                        return
        except TimeoutError as error:
            raise KeysError(f"others change {shard_name(number)} all the time: try again") from error

    async def _written(self, namespace: str, name: str, shard: Secret | None, change: dict[str, Any]) -> bool:
        """False: the Secret is another than `shard` by now."""
        write: Awaitable[Secret]
        if shard is None:
            whole = {"metadata": {"name": name, "labels": dict(LABELS)}, "type": "Opaque", **change}
            write = self._api.create(SECRETS, namespace, whole)
        else:
            version = shard.metadata.resource_version
            write = self._api.patch(SECRETS, namespace, name, change, resource_version=version)
        async with _explained():
            try:
                await write
            except (AlreadyExists, Conflict):
                return False
            except NotFound:
                if shard is None:
                    raise  # it is the namespace that is not there
                return False
        return True

    async def _shard(self, namespace: str, number: int) -> Secret | None:
        async with _explained():
            try:
                return await self._api.get(SECRETS, namespace, shard_name(number))
            except NotFound:
                return None

    async def _where(self) -> str:
        async with _explained():
            return self._namespace or await self._api.namespace()


@asynccontextmanager
async def _explained() -> AsyncIterator[None]:
    try:
        yield
    except Forbidden as error:
        hint = "needed are get of claudeteams, and get, create and patch of secrets"
        raise KeysError(f"{error} ({hint})") from error
    except (ApiError, AccessError) as error:
        raise KeysError(str(error)) from error
