"""The folder that outlives the server: what is in it after any end, and what never leaves it."""

from __future__ import annotations

import json
import logging
import os
import time
import tracemalloc
import uuid
from pathlib import Path

import pytest

from claude_router.local import records
from claude_router.local.records import Record
from claude_router.local.store import Store, StoreError
from claude_router.local.volumes import OWNER
from claude_router.sessions import ConversationKey, Usage
from router.local.harness import key
from router.local.stores import claimed, record_file, reopened


@pytest.mark.parametrize("conversation", ["one", "../../etc/passwd", "日本語 🎉", "x" * 256, ".", "a/b\\c:d"])
async def test_a_claim_survives(store: Store, conversation: str) -> None:
    volume = await claimed(store, conversation)
    (volume.path / "memory").write_text("kept")
    name = key(conversation).name
    store.note(name, last_active=2e9, turns=3, usage=Usage(1, 2, 3, 0.5), claude_session_id="sid")
    await store.flush()
    again = reopened(store)
    try:
        record = again.records[name]
        assert record.key == ConversationKey("default", conversation)
        assert (record.turns, record.usage, record.last_active) == (3, Usage(1, 2, 3, 0.5), 2e9)
        assert again.volume(name) == volume
        assert (volume.path / "memory").read_text() == "kept"
        assert [p.parent for p in (again.root / "sessions").iterdir()] == [again.root / "sessions"]
    finally:
        again.close()


async def test_what_is_in_the_file(store: Store) -> None:
    volume = await claimed(store)
    written = json.loads(record_file(store).read_bytes())
    assert written.pop("created") == written.pop("last_active") > 1.7e9
    usage = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "cost_usd": 0.0}
    assert written == {
        "version": 1, "tenant": "default", "conversation": "one", "volume": volume.id, "turns": 0, "usage": usage,
        "workspace": "", "claude_session_id": "", "tips": "",
    }  # fmt: skip


async def test_a_failed_write_leaves_the_old_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await claimed(store)
    before = record_file(store).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store.note(key("one").name, last_active=3e9, turns=9, usage=Usage(), claude_session_id="")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        await store.flush()
    assert record_file(store).read_bytes() == before
    assert store.dirty
    await store.flush()
    assert json.loads(record_file(store).read_bytes())["turns"] == 9


async def test_a_failed_claim_leaves_nothing_claimed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = store.volumes.create()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(records, "put", full)
        with pytest.raises(OSError, match="No space"):
            await store.claim(key("one"), volume)
    again = reopened(store)
    try:
        assert again.records == {}
        assert again.volumes.ids() == []
        assert list((again.root / "sessions").iterdir()) == []
    finally:
        again.close()


async def test_unclaimed_volumes_go_at_the_start_and_claimed_ones_stay(store: Store) -> None:
    kept = await claimed(store)
    spare = store.volumes.create()
    again = reopened(store)
    try:
        assert again.volumes.ids() == [kept.id]
        assert not spare.path.exists()
    finally:
        again.close()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 1}', b"\xff\xfe", b'{"version": "x"}', b"[]"])
async def test_a_corrupt_record_is_put_aside_and_restored_from_its_volume(
    store: Store, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    volume = await claimed(store)
    await claimed(store, "another")
    record_file(store).write_bytes(damage)
    again = reopened(store)
    try:
        assert set(again.records) == {key("one").name, key("another").name}
        assert again.volume(key("one").name) == volume
        [aside] = (again.root / "quarantine").iterdir()
        assert aside.read_bytes() == damage
        assert [r.levelno for r in caplog.records] == [logging.ERROR, logging.WARNING]
    finally:
        again.close()


async def test_a_record_under_another_name_is_put_aside(store: Store) -> None:
    await claimed(store)
    record_file(store).rename(record_file(store, "another"))
    again = reopened(store)
    try:
        assert set(again.records) == {key("one").name}  # from its volume
    finally:
        again.close()


@pytest.mark.parametrize("volume", ["../../../etc", "/etc", "", "0" * 36])
async def test_a_record_that_names_another_folder_is_put_aside(store: Store, volume: str) -> None:
    own = await claimed(store)
    fields = json.loads(record_file(store).read_bytes()) | {"volume": volume}
    record_file(store).write_text(json.dumps(fields))
    again = reopened(store)
    try:
        assert again.volume(key("one").name) == own
    finally:
        again.close()


async def test_both_files_damaged_keeps_the_volume(store: Store) -> None:
    volume = await claimed(store)
    record_file(store).write_bytes(b"{")
    (volume.path / OWNER).write_bytes(b"{")
    again = reopened(store)
    try:
        assert again.records == {}
        assert again.volumes.ids() == [volume.id]
    finally:
        again.close()


async def test_a_later_version_is_refused(store: Store) -> None:
    await claimed(store)
    record_file(store).write_bytes(b'{"version": 2, "what": "ever"}')
    with pytest.raises(StoreError, match=r"later version.*version 2, this program knows 1.*SESSIONS_DIR"):
        reopened(store)
    assert record_file(store).exists()


async def test_leftover_temporary_files_go(store: Store) -> None:
    await claimed(store)
    torn = record_file(store).with_name("torn.json.tmp")
    torn.write_bytes(b"{")
    again = reopened(store)
    try:
        assert not torn.exists()
        assert len(again.records) == 1
    finally:
        again.close()


async def test_two_servers_cannot_share_it(store: Store) -> None:
    with pytest.raises(StoreError, match=rf"in use by another server \(process {os.getpid()}\).*SESSIONS_DIR"):
        Store.open(store.root)
    store.close()
    Store.open(store.root).close()  # free again, and a lock file left behind does not matter


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"SESSIONS_DIR .*cannot be used"):
        Store.open(tmp_path / "file" / "below")


async def test_the_folders_are_private(store: Store) -> None:
    volume = await claimed(store)
    for folder in (store.root, store.root / "sessions", volume.path):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_thousand_conversations_are_opened_and_listed_quickly_and_small(store: Store) -> None:
    for i in range(1000):
        session = str(uuid.uuid4())
        volume = store.volumes.create()
        record = Record("default", f"conversation {i}", volume.id, 1e9, 1e9, claude_session_id=session)
        record_file(store, record.conversation).write_bytes(records.encode(record))
    store.close()
    tracemalloc.start()
    began = time.process_time()
    again = Store.open(store.root)
    try:
        assert len(again.names("default")) == 1000
        seconds = time.process_time() - began
        bytes_each = tracemalloc.get_traced_memory()[0] / 1000
    finally:
        tracemalloc.stop()
        again.close()
    assert seconds < 2.0  # it takes 0.2, most of it for tracemalloc
    assert bytes_each < 2048
