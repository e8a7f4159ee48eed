"""Listing, suspending, purging, and how the pool is."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.resources import POOLS
from claude_crds.views import ClaudePool, ClaudeSession, Metadata, SessionSpec
from claude_router.cluster.sessions import Pace
from claude_router.cluster.settings import ClusterSettings, LiveSettings
from claude_router.cluster.shown import Directory, pool_stats
from claude_router.sessions import ConversationKey, SessionFailed, Unreachable, Usage
from claude_router.settings import RouterSettings
from crds.fake_api import FakeApi, status
from router.cluster.harness import KIND, World, key, router, session, world


@pytest.mark.asyncio
async def test_pages_of_thousands_of_conversations() -> None:
    async with FakeApi() as fake:
        World(fake).add(*(session(f"talk {n}", "Suspended") for n in range(3000)))
        World(fake).add({**session("other"), "metadata": {"name": "by-hand"}})
        async with router(fake) as r:
            seen: list[str] = []
            began = time.perf_counter()
            while page := await r.sessions.list("default", limit=1000, after=seen[-1] if seen else ""):
                seen += [view.key.name for view in page]
            assert time.perf_counter() - began < 1.0
            assert seen == sorted(key(f"talk {n}").name for n in range(3000))
            assert [v.key.name for v in await r.sessions.list("default", limit=2, after=seen[10])] == seen[11:13]
            assert await r.sessions.list("nobody", limit=10) == []


@pytest.mark.asyncio
async def test_a_pool_is_crowded_while_another_of_its_conversations_waits() -> None:
    async with world() as (w, r):
        w.add(session("hot", "Ready"), session("waits", "Queued"), session("elsewhere", "Ready", poolRef={"name": "b"}))
        await r.sees("elsewhere", "Ready")
        assert r.sessions.crowded(key("hot"))
        assert not r.sessions.crowded(key("waits"))
        assert not r.sessions.crowded(key("elsewhere"))
        assert not r.sessions.crowded(key("unknown"))
        w.ready("waits")
        await r.sees("waits", "Ready")
        assert not r.sessions.crowded(key("hot"))
        w.add(session("another", "Queued"))
        await r.sees("another", "Queued")
        assert r.sessions.crowded(key("hot"))
        w.leave("another")
        await r.knows("another", lambda s: s is not None and s.leaving)
        assert not r.sessions.crowded(key("hot"))


def test_what_the_pool_says_to_everybody_names_no_conversation() -> None:
    message = 'pods "conv-merger-with-acme-draft-ucrfivrynj-54c2c6" is forbidden: exceeded quota: q'
    ready = {"type": "Ready", "status": "False", "reason": "PodRefused", "message": message}
    pool = POOLS.decoder.decode(
        json.dumps({"metadata": {"name": "default"}, "spec": {}, "status": {"conditions": [ready]}}).encode()
    )
    assert pool_stats("default", pool).error == 'pods "conv-…" is forbidden: exceeded quota: q'


@pytest.mark.asyncio
async def test_a_conversation_as_it_is_shown() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"), session("b"), session("c", desiredState="Suspended"), session("d", "Hovering"))
        body = w.object("a")
        meta = {**body["metadata"], "creationTimestamp": "2026-01-31T12:00:00Z"}
        more = {
            "lastActiveTime": "2026-01-31T13:00:00Z", "turns": 3, "claudeSessionID": "uuid",
            "message": "well", "volumeClaimName": "claim",
            "usage": {"inputTokens": 1, "outputTokens": 2, "cachedTokens": 3, "costUSD": 0.5},
        }  # fmt: skip
        fake.put(KIND, {**body, "metadata": meta, "status": {**body["status"], **more}})
        busy = {key("a").name, key("b").name}
        async with router(fake, busy=busy.__contains__) as r:
            view = await r.sessions.get(key("a"))
            assert view is not None
            assert (view.phase, view.busy, view.created, view.last_active) == (
                "Ready",
                True,
                1769860800.0,
                1769864400.0,
            )
            assert (view.turns, view.usage, view.claude_session_id) == (3, Usage(1, 2, 3, 0.5), "uuid")
            assert (view.workspace, view.message) == ("claim", "well")
            busy.clear()
            shown = {c: await r.sessions.get(key(c)) for c in "abcd"}
            assert [(v.phase, v.busy) for v in shown.values() if v] == [
                ("Ready", False), ("Queued", False), ("Suspended", False), ("Queued", False),
            ]  # fmt: skip
            w.leave("a")
            await r.knows("a", lambda s: s.leaving)
            gone = await r.sessions.get(key("a"))
            assert gone is not None
            assert gone.phase == "Suspending"
            assert await r.sessions.get(key("unknown")) is None


@pytest.mark.asyncio
async def test_suspending_waits_for_the_worker_to_end() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r:
            task = asyncio.create_task(r.sessions.suspend(key("a")))
            await w.until(lambda: w.object("a")["spec"]["desiredState"] == "Suspended")
            w.write("a", "Suspending", podName="pod-1")
            await r.sees("a", "Suspending")
            assert not task.done()
            w.write("a", "Suspended")
            assert await task
            assert await r.sessions.suspend(key("a")), "it is, already"
            assert not await r.sessions.suspend(key("unknown"))


@pytest.mark.asyncio
async def test_suspending_and_purging_are_answered_even_when_they_take_long() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake, pace=Pace(grace=0.05)) as r:
            assert await r.sessions.suspend(key("a"))
            fake.hang()
            assert await r.sessions.purge(key("a"))
            assert not w.has("a")
            assert await r.sessions.purge(key("a")), "by what it knows it was there"


@pytest.mark.asyncio
async def test_purging_ends_when_it_is_gone() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Ready"))
        async with router(fake) as r:
            assert await asyncio.gather(*(r.sessions.purge(key("a")) for _ in range(3))) == [True] * 3
            assert await r.sessions.get(key("a")) is None
            assert not await r.sessions.purge(key("a"))
            assert not await r.sessions.purge(key("unknown"))


@pytest.mark.asyncio
async def test_purging_what_has_been_begun_anew_meanwhile() -> None:
    async with FakeApi() as fake:
        w = World(fake)
        w.add(session("a", "Suspended"))
        async with router(fake, pace=Pace(grace=0.05)) as r:
            fake.hang()
            fake.remove(KIND, key("a").name)
            w.add(session("a"))
            assert await r.sessions.purge(key("a"))
            assert not w.has("a")


@pytest.mark.asyncio
async def test_without_the_api_server_they_say_so() -> None:
    async with FakeApi() as fake:
        World(fake).add(session("a", "Ready"))
        async with router(fake) as r:
            await fake.stop()
            for act in (r.sessions.suspend, r.sessions.purge):
                with pytest.raises(Unreachable, match="cannot be reached"):
                    await act(key("a"))
            view = await r.sessions.get(key("a"))
            assert view is not None
            assert len(await r.sessions.list("default", limit=10)) == 1


@pytest.mark.asyncio
async def test_the_pool_at_this_moment() -> None:
    async with world() as (w, r):
        found = await r.sessions.stats()
        assert (found.error, found.degraded) == ("ClaudePool default does not exist", True)
        w.pool({"size": 7}, live=3, busy=1, warm=1, suspended=9, queued=2)
        await r.pool_knows(lambda p: p is not None)
        found = await r.sessions.stats()
        assert (found.size, found.live, found.busy, found.warm, found.suspended, found.queued) == (7, 3, 1, 1, 9, 2)
        assert (found.error, found.degraded) == ("", False)
        condition = {"type": "Ready", "status": "False", "reason": "KeyRefused", "message": "the model refuses the key"}
        w.pool({"size": 7}, conditions=[condition])
        await r.pool_knows(lambda p: p.status.conditions)
        found = await r.sessions.stats()
        assert (found.error, found.degraded) == ("the model refuses the key", True)
        r.sessions.sessions.problem = "claudesessions are not being followed: no route"
        found = await r.sessions.stats()
        assert (found.error, found.degraded, found.size) == (r.sessions.sessions.problem, True, 7)


@pytest.mark.asyncio
async def test_what_the_server_forbids() -> None:
    async with FakeApi() as fake:
        World(fake).add(session("a", "Ready"))
        async with router(fake) as r:
            fake.answers.append(lambda _: web.json_response(status(403, "Forbidden", "no delete"), status=403))
            with pytest.raises(SessionFailed, match="no delete"):
                await r.sessions.purge(key("a"))


# -- settings that follow the pool


OWN_NAMES = ("claude-code", "claude-code-tools", "claude-code-client")


def pool(name: str = "default", **spec: object) -> ClaudePool:
    return msgspec.convert({"metadata": {"name": name}, "spec": spec}, ClaudePool)


def test_queue_timeout_and_models_follow_the_pool() -> None:
    live = LiveSettings(ClusterSettings(max_queue=3))
    local = RouterSettings()
    found = live.pool_of("anybody")
    assert (found.queue_timeout, found.model_ids, live.max_queue) == (local.queue_timeout, local.model_ids, 3)
    there = pool(queueTimeout="1m30s", models={"big": "opus"})
    live.changed("added", None, there)
    live.changed("added", None, pool("another", queueTimeout="1s", models={}))
    found = live.pool_of("anybody")
    assert (found.queue_timeout, found.model_ids) == (90.0, (*OWN_NAMES, "big"))
    assert [found.offers(m) for m in ("claude-code", "big-tools", "claude-code-opus")] == [True, True, False]
    live.changed("deleted", there, None)
    assert live.pool_of("anybody").queue_timeout == local.queue_timeout


def test_a_team_with_a_pool_of_its_own_has_that_ones() -> None:
    homes = {"red": ("research", "red"), "lost": ("none", "lost")}
    live = LiveSettings(ClusterSettings(pool="main"), home=lambda tenant: homes.get(tenant, ("", "")))
    research = pool("research", queueTimeout="10m", models={"big": "opus"})
    live.changed("added", None, research)
    live.changed("added", None, pool("main", queueTimeout="7s", models={}))
    shown = {tenant: (live.pool_of(tenant).queue_timeout, live.pool_of(tenant).model_ids) for tenant in ("red", "any")}
    assert shown == {"red": (600.0, (*OWN_NAMES, "big")), "any": (7.0, OWN_NAMES)}
    assert live.pool_of("lost").model_ids == RouterSettings().model_ids, "its pool is not there: a pool's defaults"
    assert live.pool_of("red") is live.pool_of("red"), "a spec is read when it changes, not with every request"
    live.changed("modified", research, pool("research", queueTimeout="1m", models={}))
    assert (live.pool_of("red").queue_timeout, live.pool_of("red").offers("big")) == (60.0, False)
    homes["red"] = ("main", "red")
    assert live.pool_of("red").queue_timeout == 7.0


# -- the directory


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("wxyz"), st.booleans()), max_size=30))
def test_the_directory_says_what_a_listing_would(changes: list[tuple[str, str, bool]]) -> None:
    directory = Directory()
    there: dict[str, ClaudeSession] = {}
    for tenant, conversation, present in changes:
        name = ConversationKey(tenant, conversation).name
        made = ClaudeSession(
            metadata=Metadata(name=name), spec=SessionSpec(conversation_id=conversation, tenant=tenant)
        )
        old = there.pop(name, None)
        if present:
            there[name] = made
            directory.changed("modified" if old else "added", old, made)
        elif old:
            directory.changed("deleted", old, None)
    for tenant in "ab":
        names = sorted(name for name, o in there.items() if o.spec.tenant == tenant)
        assert directory.page(tenant, limit=100, after="") == names
        assert directory.page(tenant, limit=1, after=names[0] if names else "") == names[1:2]
