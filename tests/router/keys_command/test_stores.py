"""Records of keys on a cluster and in a file: whatever happens at once, no key is lost."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from claude_crds.api import Api
from claude_crds.apikeys import SHARDS, KeyRecord, encode, make, shard_name, shard_of
from claude_crds.resources import SECRETS, TEAMS
from claude_router.keys_command import cluster as module
from claude_router.keys_command.cluster import ClusterKeys
from claude_router.keys_command.file import FileKeys
from claude_router.keys_command.store import KeysError
from crds.fake_api import FakeApi, status

NOW = 1.9e9
KIND = SECRETS.path("ns")


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as made:
        yield made


@pytest.fixture
async def keys(fake: FakeApi) -> AsyncIterator[ClusterKeys]:
    async with Api(fake.loader) as api:
        yield ClusterKeys(api)


def records(number: int, shard: int | None = None) -> list[KeyRecord]:
    found: list[KeyRecord] = []
    while len(found) < number:
        record = make("t", "", NOW, None)[1]
        if shard in (None, shard_of(record.id)):
            found.append(record)
    return found


def secret(shard: int, **data: bytes) -> dict[str, object]:
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    return {"metadata": {"name": shard_name(shard)}, "type": "Opaque", "data": encoded}


async def test_a_key_is_kept_in_the_secret_of_its_id(fake: FakeApi, keys: ClusterKeys) -> None:
    assert (await keys.read()).records == {}
    (first,), (second,) = records(1, shard=2), records(1, shard=2)
    await keys.add(first)
    await keys.add(second)
    async with Api(fake.loader) as api:
        assert list(fake.names(KIND)) == ["claude-code-api-keys-2"]
        kept = await api.get(SECRETS, "ns", "claude-code-api-keys-2")
    assert kept.data == {first.id: encode(first), second.id: encode(second)}
    assert kept.metadata.labels["claude-code-api.io/component"] == "api-keys"
    assert (await keys.read()).records == {first.id: first, second.id: second}


async def test_keys_made_and_revoked_at_the_same_time_in_one_secret(fake: FakeApi) -> None:
    """Each change sees the Secret as it was before the others'; none is lost, and none comes back."""
    old, new = records(8, shard=0), records(12, shard=0)
    async with Api(fake.loader) as api:
        keys = ClusterKeys(api, "ns")
        await asyncio.gather(*map(keys.add, old))
        await asyncio.gather(*map(keys.add, new), *(keys.remove(record.id) for record in old))
        assert (await keys.read()).records == {record.id: record for record in new}
    refused = [r for r in fake.requests if r.method in ("PATCH", "POST")]
    assert len(refused) > len(old) * 2 + len(new), "nothing ever met"


async def test_a_change_between_reading_and_writing_is_seen(fake: FakeApi, keys: ClusterKeys) -> None:
    mine, theirs, last = records(3, shard=4)
    fake.put(KIND, secret(4, **{last.id: encode(last)}))

    def meanwhile(request: web.Request) -> web.Response:
        before = web.json_response(fake._objects[KIND][shard_name(4)])
        fake.put(KIND, secret(4, **{theirs.id: encode(theirs)}))
        return before

    fake.answers.append(meanwhile)
    await keys.add(mine)
    assert (await keys.read()).records == {r.id: r for r in (mine, theirs)}


async def test_a_secret_that_comes_or_goes_meanwhile(fake: FakeApi, keys: ClusterKeys) -> None:
    mine, theirs = records(2, shard=1)

    def came(request: web.Request) -> web.Response:
        fake.put(KIND, secret(1, **{theirs.id: encode(theirs)}))
        return web.json_response(status(404, "NotFound"), status=404)

    fake.answers.append(came)
    await keys.add(mine)
    assert set((await keys.read()).records) == {mine.id, theirs.id}

    def gone(request: web.Request) -> web.Response:
        return web.json_response(fake.remove(KIND, shard_name(1)))

    fake.answers.append(gone)
    (third,) = records(1, shard=1)
    await keys.add(third)
    assert set((await keys.read()).records) == {third.id}


async def test_an_id_that_is_taken_is_not_overwritten(fake: FakeApi, keys: ClusterKeys) -> None:
    (record,) = records(1)
    await keys.add(record)
    with pytest.raises(KeysError, match="is taken by another key"):
        await keys.add(KeyRecord(record.id, "other", "", "1" * 64, NOW, None))
    assert (await keys.read()).records == {record.id: record}


async def test_revoking(fake: FakeApi, keys: ClusterKeys) -> None:
    one, other = records(2, shard=6)
    with pytest.raises(KeysError, match=f"there is no key {one.id}"):
        await keys.remove(one.id)
    await keys.add(one)
    await keys.add(other)
    await keys.remove(one.id)
    assert set((await keys.read()).records) == {other.id}
    with pytest.raises(KeysError, match="there is no key"):
        await keys.remove(one.id)


async def test_what_is_no_key_s_entry_is_told_and_can_be_removed(fake: FakeApi, keys: ClusterKeys) -> None:
    (good,), (stray,) = records(1, shard=0), records(1, shard=5)
    broken = records(1, shard=0)[0].id
    fake.put(KIND, secret(0, **{good.id: encode(good), broken: b"nonsense", stray.id: encode(stray)}))
    kept = await keys.read()
    assert kept.records == {good.id: good}
    assert set(kept.odd) == {f"{shard_name(0)}/{broken}", f"{shard_name(0)}/{stray.id}"}
    await keys.remove(broken)
    assert (await keys.read()).odd == (f"{shard_name(0)}/{stray.id}",)


async def test_it_is_never_tried_for_good(fake: FakeApi, keys: ClusterKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    (record,) = records(1)
    fake.answers += [
        lambda _: web.json_response(secret(0)),
        lambda _: web.json_response(status(409, "Conflict"), status=409),
    ] * 500
    with pytest.raises(KeysError, match="all the time: try again"):
        await keys.add(record)


async def test_a_team_must_be_there(fake: FakeApi, keys: ClusterKeys) -> None:
    with pytest.raises(KeysError, match="there is no ClaudeTeam t in the namespace ns"):
        await keys.check_team("t")
    fake.put(TEAMS.path("ns"), {"metadata": {"name": "t"}, "spec": {}})
    await keys.check_team("t")
    fake.put(TEAMS.path("ns"), {"metadata": {"name": "t", "deletionTimestamp": "2030-01-01T00:00:00Z"}, "spec": {}})
    with pytest.raises(KeysError, match="is being deleted"):
        await keys.check_team("t")


async def test_without_the_right_to_it_or_without_a_server(fake: FakeApi, keys: ClusterKeys) -> None:
    fake.answers += [lambda _: web.json_response(status(403, "Forbidden", "you may not"), status=403)] * SHARDS
    with pytest.raises(KeysError, match=r"you may not \(needed are get of claudeteams"):
        await keys.read()
    fake.answers.clear()
    (record,) = records(1)
    fake.answers += [
        lambda _: web.json_response(secret(shard_of(record.id))),
        lambda _: web.json_response(status(503, "ServiceUnavailable"), status=503),
    ]
    with pytest.raises(KeysError, match=f"Whether the key {record.id} was made is unknown"):
        await keys.add(record)
    await fake.stop()
    with pytest.raises(KeysError, match="cannot connect"):
        await keys.remove("abcd1234")


async def test_a_namespace_of_one_s_choice(fake: FakeApi) -> None:
    async with Api(fake.loader) as api:
        (record,) = records(1)
        await ClusterKeys(api, "other").add(record)
        assert (await ClusterKeys(api).read()).records == {}
    assert list(fake.names(SECRETS.path("other"))) == [shard_name(shard_of(record.id))]


async def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = FileKeys(path)
    assert (await keys.read()).records == {}
    one, other = records(2)
    await keys.add(one)
    assert path.stat().st_mode & 0o777 == 0o600
    await keys.add(other)
    assert (await FileKeys(path).read()).records == {r.id: r for r in (one, other)}
    with pytest.raises(KeysError, match="is taken by another key"):
        await keys.add(one)
    await keys.remove(one.id)
    with pytest.raises(KeysError, match="there is no key"):
        await keys.remove(one.id)
    assert list(json.loads(path.read_text())) == [other.id]
    assert os.listdir(tmp_path) == ["keys.json"]


async def test_a_file_that_is_changed_by_many_at_once(tmp_path: Path) -> None:
    old, new = records(20), records(20)
    stores = [FileKeys(tmp_path / "keys.json") for _ in range(20)]
    await asyncio.gather(*(store.add(record) for store, record in zip(stores, old, strict=True)))
    changes = [store.add(record) for store, record in zip(stores, new, strict=True)]
    await asyncio.gather(*changes, *(store.remove(record.id) for store, record in zip(stores, old, strict=True)))
    assert (await stores[0].read()).records == {record.id: record for record in new}


async def test_a_file_keeps_its_mode_and_the_link_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "keys.json", tmp_path / "link"
    path.write_text("{}")
    path.chmod(0o640)
    link.symlink_to(path)
    (record,) = records(1)
    await FileKeys(link).add(record)
    assert link.is_symlink()
    assert (list(json.loads(path.read_text())), path.stat().st_mode & 0o777) == ([record.id], 0o640)


async def test_a_file_that_is_none_of_keys_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('["something else"]')
    (record,) = records(1)
    for attempt in (FileKeys(path).add(record), FileKeys(path).remove(record.id), FileKeys(path).read()):
        with pytest.raises(KeysError, match="is no file of API keys"):
            await attempt
    assert path.read_text() == '["something else"]'
    with pytest.raises(KeysError, match="cannot be written"):
        await FileKeys(tmp_path / "none" / "keys.json").add(record)
