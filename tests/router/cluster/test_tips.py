"""Requests without an id on a cluster: tips in annotations, seen by every router."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from aiohttp import web

from claude_crds.resources import GROUP, TIPS_ANNOTATION
from claude_router.cluster import tips as module
from claude_router.sessions import ConversationKey
from claude_router.tips import entries
from crds.fake_api import FakeApi, Json, status
from router.cluster.harness import KIND, Router, World, key, router, session, world

pytestmark = pytest.mark.asyncio

ONE, TWO, THREE = (f"{n:032x}" for n in (1, 2, 3))


def find(r: Router, *tips: str, tenant: str = "default") -> str:
    found = r.sessions.find_by_tip(tenant, tips)
    assert found is None or found.tenant == tenant
    return found.id if found else ""


def annotation(w: World, conversation: str) -> str:
    found: str = w.object(conversation)["metadata"].get("annotations", {}).get(TIPS_ANNOTATION, "")
    return found


def with_tips(body: Json, tips: str) -> Json:
    return {**body, "metadata": {**body["metadata"], "annotations": {TIPS_ANNOTATION: tips, "other": "kept"}}}


async def noted(w: World, conversation: str, tips: str) -> None:
    await w.until(lambda: annotation(w, conversation) == tips)


async def test_own_notes_count_at_once_and_are_written_behind() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(with_tips(session("a", "Ready"), ""))
        async with router(fake) as r:
            r.sessions.note_tip(key("a"), ONE)
            assert w.sent("PATCH") == []
            assert find(r, ONE, TWO) == "a"
            assert find(r, ONE, tenant="other") == ""
            r.sessions.note_tip(key("a"), TWO)
            await noted(w, "a", f"{ONE} {TWO}")
            await r.sessions._tips.settle(5)
            assert len(w.sent("PATCH")) == 1
            assert w.object("a")["metadata"]["annotations"]["other"] == "kept"
            assert w.object("a")["metadata"]["generation"] == 1, "no ask, and nothing for the operator to do"
            r.sessions.note_tip(key("a"), ONE)
            r.sessions.note_tip(key("unknown"), THREE)
            assert not r.sessions._tips._writing
            assert find(r, THREE) == ""


async def test_another_routers_notes_and_a_restart() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"), session("b", "Suspended"))
        async with router(fake) as r, router(fake) as other:
            await fake.watched(4)
            r.sessions.note_tip(key("a"), ONE)
            await other.knows("a", lambda s: s.tips == ONE)
            assert find(other, ONE) == "a"
            other.sessions.note_tip(key("b"), TWO)
            other.sessions.note_tip(key("a"), THREE)
            await r.knows("a", lambda s: s.tips == f"{ONE} {THREE}")
            assert [find(r, ONE, THREE), find(r, TWO)] == ["a", "b"]
        async with router(fake) as again:
            assert [find(again, t) for t in (ONE, TWO, THREE)] == ["a", "b", "a"]


async def test_two_routers_note_at_once() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r, router(fake) as other:
            await fake.watched(4)
            for n in range(10):
                r.sessions.note_tip(key("a"), f"{n:032x}")
                other.sessions.note_tip(key("a"), f"{n + 100:032x}")
                await asyncio.sleep(0)
            wanted = {f"{n + more:032x}" for n in range(10) for more in (0, 100)}
            for each in (r, other):
                await each.knows("a", lambda s: set(entries(s.tips)) == wanted)
                assert {find(each, t) for t in wanted} == {"a"}


async def test_who_began_alike_is_told_apart_by_nobody_even_when_one_is_deleted() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"), session("b", "Ready"))
        async with router(fake) as r:
            r.sessions.note_tip(key("a"), ONE)
            await noted(w, "a", ONE)
            r.sessions.note_tip(key("b"), ONE)
            assert find(r, ONE) == ""
            await noted(w, "a", f"{ONE}!")
            await noted(w, "b", f"{ONE}!")
            r.sessions.note_tip(key("a"), TWO)
            assert find(r, ONE, TWO) == "a"
            fake.remove(KIND, key("b").name)
            await r.knows("b", lambda s: s is None)
            assert find(r, ONE) == ""
        async with router(fake) as again:
            assert find(again, ONE) == ""


async def test_two_routers_note_the_same_for_two_conversations() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"), session("b", "Ready"))
        async with router(fake) as r, router(fake) as other:
            await fake.watched(4)
            r.sessions.note_tip(key("a"), ONE)
            other.sessions.note_tip(key("b"), ONE)
            for each in (r, other):
                await each.knows("a", lambda s: bool(s.tips))
                await each.knows("b", lambda s: bool(s.tips))
                assert find(each, ONE) == ""
            fake.remove(KIND, key("b").name)
            await r.knows("b", lambda s: s is None)
            assert find(r, ONE) == "", "as long as this router remembers it"


async def test_tenants_and_sessions_of_other_makers() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        named = {"metadata": {"name": ConversationKey("t", "a").name}}
        w.add(
            with_tips(session("a"), ONE),
            with_tips({**session("a", tenant="t"), **named}, ONE),
            with_tips({**session("c"), "metadata": {"name": "by-hand"}}, TWO),
            with_tips(session("d"), f"what? {THREE} {'x' * 10_000}"),
        )
        async with router(fake) as r:
            assert find(r, ONE) == find(r, ONE, tenant="t") == "a"
            assert find(r, TWO) == ""
            assert find(r, THREE) == "d"


async def test_a_conversation_that_is_being_deleted_is_not_continued() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(with_tips(session("a", "Ready"), ONE))
        async with router(fake) as r:
            assert f"{GROUP}/tips" == TIPS_ANNOTATION
            w.leave("a")
            await r.knows("a", lambda s: s.leaving)
            assert find(r, ONE) == ""
            r.sessions.note_tip(key("a"), TWO)
            assert not r.sessions._tips._pending
            fake.remove(KIND, key("a").name)
            w.add(session("a", "Ready"))
            await r.knows("a", lambda s: s is not None and not s.leaving)
            r.sessions.note_tip(key("a"), ONE)
            assert find(r, ONE) == "", "somebody may come back with the old one's history"


async def test_the_annotation_is_bounded() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r:
            await fake.stop()
            for n in range(1, 101):
                r.sessions.note_tip(key("a"), f"{n:032x}")
            assert len(r.sessions._tips._pending[key("a").name]) == 32
            await fake.start()
            await w.until(lambda: list(entries(annotation(w, "a"))) == [f"{n:032x}" for n in range(69, 101)])
            assert len(annotation(w, "a")) < 1100
            await r.sessions._tips.settle(5)
            assert [find(r, f"{n:032x}") for n in (68, 69, 100)] == ["", "a", "a"]


async def test_without_the_api_server_notes_wait_and_are_few(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_PENDING", 3)
    async with FakeApi() as fake:
        w = World(fake)
        w.add(*(session(c, "Ready") for c in "abcde"))
        async with router(fake) as r:
            await fake.stop()
            for n, c in enumerate("abcde", start=1):
                r.sessions.note_tip(key(c), f"{n:032x}")
            assert len(r.sessions._tips._pending) == 3
            assert find(r, f"{5:032x}") == "e"
            await fake.start()
            await w.until(lambda: all(annotation(w, c) for c in "cde"))
            await r.sessions._tips.settle(5)
            assert not r.sessions._tips._pending
            assert not annotation(w, "a")
    assert not [x for x in caplog.records if x.levelno > logging.WARNING]


async def test_a_conflict_is_solved_by_reading_again() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r:
            await fake.watched(2)
            fake.hang()
            fake.put(KIND, with_tips(w.object("a"), ONE))
            r.sessions.note_tip(key("a"), TWO)
            await noted(w, "a", f"{ONE} {TWO}")
            await r.sessions._tips.settle(5)
            assert find(r, ONE) == find(r, TWO) == "a", "the answer to the write is learned"


async def test_what_is_refused_is_not_tried_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"), session("b", "Ready"))
        async with router(fake) as r:
            fake.answers += [
                lambda _: web.json_response(status(403, "Forbidden", "no patch"), status=403),
                lambda _: web.json_response(status(404, "NotFound"), status=404),
            ]
            r.sessions.note_tip(key("a"), ONE)
            await r.sessions._tips.settle(5)
            r.sessions.note_tip(key("b"), TWO)
            await r.sessions._tips.settle(5)
            assert len(w.sent("PATCH")) == 2
            assert find(r, ONE) == "a", "here it counts"
            r.sessions.note_tip(key("a"), THREE)
            await noted(w, "a", f"{ONE} {THREE}")
    assert [x.levelno for x in caplog.records if x.name == module.__name__] == [logging.WARNING]


async def test_what_is_left_is_written_when_the_router_ends() -> None:
    async with world() as (w, r):
        w.add(session("a", "Ready"))
        await r.sees("a", "Ready")
        r.sessions.note_tip(key("a"), ONE)
        await r.sessions.close()
        assert annotation(w, "a") == ONE
        assert json.dumps(w.object("a")).count(ONE) == 1
