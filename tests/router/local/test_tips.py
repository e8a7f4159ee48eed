"""Which conversation of this machine a request without an id continues, also after a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from claude_router.local.pool import LocalSessions
from claude_router.local.store import Store
from claude_router.local.tips import LocalTips
from claude_router.sessions import ConversationKey
from claude_router.tips import entries
from router.local.harness import key, pool
from router.local.stores import claimed, record_file, reopened

ONE, TWO, THREE = (f"{n:032x}" for n in (1, 2, 3))


def find(sessions: LocalSessions | LocalTips, *tips: str, tenant: str = "default") -> str:
    found = sessions.find_by_tip(tenant, tips) if isinstance(sessions, LocalSessions) else sessions.find(tenant, tips)
    return found.id if found else ""


async def test_a_tip_counts_at_once_and_is_on_disk_at_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.turn("one")
        p.sessions.note_tip(key("one"), ONE)
        assert find(p.sessions, ONE, TWO) == "one"
        assert find(p.sessions, ONE, tenant="other") == ""
        await asyncio.sleep(0)  # the task that writes has begun, and the store's thread does one thing after another
        await asyncio.wrap_future(p.store._writer.submit(lambda: None))
        assert json.loads(record_file(p.store).read_bytes())["tips"] == ONE
        p.sessions.note_tip(key("never begun"), TWO)
        assert find(p.sessions, TWO) == ""


async def test_it_survives_the_server(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        for conversation, tip in (("one", ONE), ("two", ONE), ("two", TWO)):
            await p.turn(conversation)
            p.sessions.note_tip(key(conversation), tip)
    async with pool(tmp_path) as p:
        assert find(p.sessions, ONE) == ""
        assert find(p.sessions, ONE, TWO) == "two"
        await p.sessions.purge(key("two"))
        assert find(p.sessions, ONE) == find(p.sessions, TWO) == ""
    async with pool(tmp_path) as p:
        assert find(p.sessions, ONE) == "", "the other's is deleted, but it had begun alike"
        await p.turn("one")
        p.sessions.note_tip(key("one"), THREE)
        assert find(p.sessions, ONE, THREE) == "one"


async def test_a_purged_conversation_may_be_begun_anew(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.turn("one")
        p.sessions.note_tip(key("one"), ONE)
        await p.sessions.purge(key("one"))
        p.sessions.note_tip(key("one"), TWO)
        assert find(p.sessions, ONE) == find(p.sessions, TWO) == ""
        await p.turn("one")
        p.sessions.note_tip(key("one"), ONE)
        p.sessions.note_tip(key("one"), THREE)
        assert find(p.sessions, ONE) == ""
        assert find(p.sessions, ONE, THREE) == "one"


async def test_after_a_kill_what_was_flushed_is_there(store: Store) -> None:
    await claimed(store)
    assert LocalTips(store).note(key("one"), ONE)
    await store.flush()
    again = reopened(store)
    try:
        assert find(LocalTips(again), ONE) == "one"
    finally:
        again.close()


async def test_a_record_is_bounded_and_older_ones_have_none(store: Store) -> None:
    await claimed(store)
    fields = json.loads(record_file(store).read_bytes())
    del fields["tips"]
    record_file(store).write_text(json.dumps(fields))
    again = reopened(store)
    try:
        tips = LocalTips(again)
        for n in range(1, 100):
            assert tips.note(key("one"), f"{n:032x}")
        assert not tips.note(key("one"), f"{99:032x}"), "the answer once more"
        assert list(entries(again.records[key("one").name].tips)) == [f"{n:032x}" for n in range(68, 100)]
        await again.flush()
        assert record_file(again).stat().st_size < 2048
        assert [find(tips, f"{n:032x}") for n in (67, 68, 99)] == ["", "one", "one"]
    finally:
        again.close()


async def test_tenants_are_apart(store: Store) -> None:
    for tenant in ("a", "b"):
        await store.claim(ConversationKey(tenant, f"of {tenant}"), store.volumes.create())
    tips = LocalTips(store)
    for tenant in ("a", "b"):
        tips.note(ConversationKey(tenant, f"of {tenant}"), ONE)
    assert [find(tips, ONE, tenant=tenant) for tenant in ("a", "b", "default")] == ["of a", "of b", ""]


async def test_a_purge_that_fails_leads_nobody_there(store: Store) -> None:
    await claimed(store)
    tips = LocalTips(store)
    tips.note(key("one"), ONE)
    tips.forget(key("one").name)
    assert find(tips, ONE) == ""
    assert tips.note(key("one"), TWO)
    assert find(tips, ONE, TWO) == "one"
