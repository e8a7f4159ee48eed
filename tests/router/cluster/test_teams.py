"""Teams and keys on a cluster: watched, by name, and in force as soon as the API server tells."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from claude_crds.api import Api
from claude_crds.apikeys import SHARDS, KeyRecord, encode, make, shard_name, shard_of
from claude_crds.resources import SECRETS, TEAMS
from claude_router import views
from claude_router.cluster.sessions import KubernetesSessions
from claude_router.cluster.teams import TeamWatch
from claude_router.sessions import ConversationKey, SessionFailed
from crds.fake_api import PATIENCE, FakeApi
from router.cluster.harness import KIND, POOL_KIND, World, fast, router, session, world
from router.cluster.test_process import answered, healthy, process
from router.harness import CHAT, body
from router.namesakes import BLUE, RED

pytestmark = pytest.mark.asyncio

TEAM_KIND = TEAMS.path("ns")
SECRET_KIND = SECRETS.path("ns")


def publish(fake: FakeApi, *records: KeyRecord, **more: bytes) -> None:
    """All keys, each in its Secret; `more` goes into each."""
    for shard in range(SHARDS):
        entries = {r.id: encode(r) for r in records if shard_of(r.id) == shard} | more
        data = {name: base64.b64encode(entry).decode() for name, entry in entries.items()}
        fake.put(SECRET_KIND, {"metadata": {"name": shard_name(shard)}, "data": data})


@contextlib.asynccontextmanager
async def watching(fake: FakeApi) -> AsyncIterator[TeamWatch]:
    async with Api(fake.loader) as api:
        watch = TeamWatch(api, "ns", backoff=fast)
        tasks = [asyncio.create_task(reflector.run()) for reflector in watch.reflectors]
        try:
            yield watch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(fake: FakeApi, true: Callable[[], Any]) -> None:
    """What is true soon after something has happened there, and nothing tells of."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def synced(watch: TeamWatch) -> None:
    async with asyncio.timeout(PATIENCE):
        for reflector in watch.reflectors:
            await reflector.wait_synced()


async def test_a_key_is_in_force_as_soon_as_it_is_there_and_no_longer() -> None:
    text, record = make("red", "", 0.0, None)
    other_text, other = make("blue", "", 0.0, None)
    async with FakeApi() as fake, watching(fake) as watch:
        await synced(watch)
        assert watch.side.ready()
        assert not watch.side.closed, "no team, no key: as without teams"
        await fake.watched(1 + SHARDS)
        publish(fake, record, other)
        await until(fake, lambda: watch.side.ring.check(text, 1.0) and watch.side.ring.check(other_text, 1.0))
        assert watch.side.closed
        publish(fake, other)
        await until(fake, lambda: watch.side.ring.check(text, 1.0) is None)
        assert watch.side.ring.check(other_text, 1.0)
        fake.remove(SECRET_KIND, shard_name(shard_of(other.id)))
        await until(fake, lambda: len(watch.side.ring) == 0)


async def test_only_the_eight_secrets_are_asked_for_each_by_its_name() -> None:
    async with FakeApi() as fake, watching(fake) as watch:
        await synced(watch)
        await fake.watched(1 + SHARDS)
        asked = {r.query.get("fieldSelector") for r in fake.requests if r.path == SECRET_KIND}
    assert asked == {f"metadata.name=claude-code-api-keys-{n}" for n in range(8)}


async def test_an_entry_that_is_no_key_does_not_cost_the_others(caplog: pytest.LogCaptureFixture) -> None:
    text, record = make("red", "", 0.0, None)
    async with FakeApi() as fake:
        publish(fake, record, README=b"not a key, but maybe-a-secret")
        fake.put(SECRET_KIND, {"metadata": {"name": "somebody-elses"}, "data": {"a": base64.b64encode(b"b").decode()}})
        async with watching(fake) as watch:
            await synced(watch)
            assert watch.side.ring.check(text, 1.0)
            assert len(watch.side.ring) == 1
    assert "left out" in caplog.text
    assert "maybe-a-secret" not in caplog.text


async def test_teams_come_change_and_go() -> None:
    async with FakeApi() as fake, watching(fake) as watch:
        await synced(watch)
        await fake.watched(1 + SHARDS)
        teams = watch.side.teams
        fake.put(TEAM_KIND, {"metadata": {"name": "red"}, "spec": {"maxLive": 2}})
        await until(fake, lambda: teams.shares() == {"red": 2})
        assert watch.side.closed
        condition = {"type": "BudgetExceeded", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}
        body = {"metadata": {"name": "red"}, "spec": {"budget": {"usd": 1}}, "status": {"conditions": [condition]}}
        fake.put(TEAM_KIND, body)
        await until(fake, lambda: (p := teams.policy("red")) is not None and p.budget == "exceeded")
        fake.remove(TEAM_KIND, "red")
        await until(fake, lambda: teams.policy("red") is None)
        assert not watch.side.closed


async def test_it_is_not_ready_before_all_are_listed() -> None:
    async with FakeApi() as fake, Api(fake.loader) as api:
        watch = TeamWatch(api, "ns")
        assert not watch.side.ready()
        tasks = [asyncio.create_task(r.run()) for r in watch.reflectors[:-1]]
        async with asyncio.timeout(PATIENCE):
            for reflector in watch.reflectors[:-1]:
                await reflector.wait_synced()
        assert not watch.side.ready()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def session_of(tenant: str, conversation: str) -> dict[str, Any]:
    spec = {"conversationID": conversation, "tenant": tenant, "team": tenant, "desiredState": "Suspended"}
    return {"metadata": {"name": ConversationKey(tenant, conversation).name}, "spec": spec}


async def test_a_teams_conversation_is_begun_as_its_own_in_its_pool() -> None:
    async with FakeApi() as fake:
        homes = {"red": ("big", "red"), "gone": ("", "")}
        async with router(fake, home=lambda tenant: homes.get(tenant, ("", ""))) as r:
            tenants = ("red", "gone", "default")
            waiting = [
                asyncio.create_task(r.sessions.acquire(ConversationKey(tenant, "c"), deadline=deadline))
                for deadline in [asyncio.get_running_loop().time() + PATIENCE]
                for tenant in tenants
            ]
            await fake.until(lambda: len(fake.names(KIND)) == 3)
            specs = {o["spec"]["tenant"]: o["spec"] for o in fake._objects[KIND].values()}
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert (specs["red"]["team"], specs["red"]["poolRef"]) == ("red", {"name": "big"})
        for tenant in ("gone", "default"):
            assert "team" not in specs[tenant]
            assert specs[tenant]["poolRef"] == {"name": "default"}


async def test_one_teams_pages_of_10000_conversations_and_their_number() -> None:
    async with FakeApi() as fake:
        tenants = ("red", "blue", "default")
        for n in range(10_000):
            fake.put(KIND, session_of(tenants[n % 3], f"talk {n // 3}"))
        async with router(fake) as r:
            names: dict[str | None, list[str]] = {}
            for tenant in (*tenants, None):
                found: list[str] = []
                while page := await r.sessions.list(tenant, limit=1000, after=found[-1] if found else ""):
                    assert tenant is None or {view.key.tenant for view in page} == {tenant}
                    found += [view.key.name for view in page]
                assert found == sorted(found)
                names[tenant] = found
            assert [len(names[t]) for t in (*tenants, None)] == [3334, 3333, 3333, 10_000]
            # Its own processor time: another process's turn on this machine is not the list's.
            took = []
            for _ in range(5):
                began = time.process_time()
                views.json_response(views.page(await r.sessions.list("red", limit=1001), 1000))
                took.append(time.process_time() - began)
            assert min(took) < 0.05
            began = time.process_time()
            assert r.sessions.count("red") == 3334
            assert r.sessions.count("red", [names["red"][0], "conv-new"]) == 3335
            assert r.sessions.count("nobody") == 0
            assert time.process_time() - began < 0.005
            fake.remove(KIND, names["red"][0])
            await until(fake, lambda: r.sessions.count("red") == 3333)


async def test_it_is_not_well_before_teams_are_read() -> None:
    async with FakeApi() as fake, Api(fake.loader) as api:
        watch = TeamWatch(api, "ns")
        async with router(fake, synced=False, also=watch.reflectors[:1]) as r:
            await until(fake, lambda: r.sessions.synced)
            assert watch.teams.synced
        async with router(fake, synced=False, also=[TeamWatch(api, "other").teams, _Never()]) as r:
            await until(fake, lambda: r.sessions.sessions.synced)
            assert not r.sessions.synced
            assert "claudeteams are away" in (await r.sessions.stats()).error


async def test_a_namesake_in_another_team_is_nobody() -> None:
    async with world() as (w, r):
        body = session(RED.id, "Ready", tenant="red", team="red")
        w.add({**body, "metadata": {"name": RED.name}})
        deadline = asyncio.get_running_loop().time() + PATIENCE
        await r.sessions.sessions.wait_for(RED.name, lambda s: s is not None, deadline=deadline)
        assert await r.sessions.get(RED) is not None
        assert (await r.sessions.acquire(RED, deadline=deadline)).name == RED.name
        assert await r.sessions.get(BLUE) is None
        assert await r.sessions.list("blue", limit=9) == []
        before = len(w.fake.requests)
        with pytest.raises(SessionFailed, match="choose another") as caught:
            await r.sessions.acquire(BLUE, deadline=deadline)
        assert not any(word in str(caught.value) for word in ("red", RED.id))
        assert not await r.sessions.suspend(BLUE)
        assert not await r.sessions.purge(BLUE)
        assert len(w.fake.requests) == before, "what is another's is not even asked for"
        assert await r.sessions.purge(RED)


async def test_a_namesake_that_the_copy_does_not_know_yet_is_nobody_either() -> None:
    async with world() as (w, r):
        w.fake.hang()
        body = session(RED.id, "Ready", tenant="red", team="red")
        w.add({**body, "metadata": {"name": RED.name}})
        assert r.sessions.sessions.get(RED.name) is None
        with pytest.raises(SessionFailed, match="choose another"):
            await r.sessions.acquire(BLUE, deadline=asyncio.get_running_loop().time() + PATIENCE)
    for tried in (KubernetesSessions.suspend, KubernetesSessions.purge):
        async with world() as (w, r):
            w.fake.hang()
            w.add({**body, "metadata": {"name": RED.name}})
            assert not await tried(r.sessions, BLUE)
            assert w.fake._objects[KIND][RED.name]["spec"]["desiredState"] == "Running"


class _Never:
    """A reflector that has no luck."""

    synced = False
    problem = "claudeteams are away"

    async def keep_running(self) -> None:
        await asyncio.Event().wait()


async def test_the_whole_process(tmp_path: Path) -> None:
    text, record = make("red", "", 0.0, None)
    lost, revoked = make("red", "", 0.0, None)
    async with FakeApi() as fake:
        World(fake).pool()
        fake.put(KIND, session_of("red", "mine"))
        fake.put(KIND, session_of("blue", "theirs"))
        log = tmp_path / "audit.log"
        async with process(tmp_path, fake.server, TEAMS="true", AUDIT_LOG=str(log)) as (_, client):
            await healthy(client)
            assert (await client.get("/conversations")).status_code == 200, "without teams it is open"
            fake.put(TEAM_KIND, {"metadata": {"name": "red"}, "spec": {"models": ["claude-code-opus"]}})
            publish(fake, record, revoked)
            await answered(lambda: client.get("/conversations"), 401)
            for key in (text, lost):
                headers = {"authorization": f"Bearer {key}"}
                listed = await answered(lambda h=headers: client.get("/conversations", headers=h), 200)  # type: ignore[misc]
                assert [c["id"] for c in listed.json()["data"]] == ["mine"]
            assert (await client.get("/v1/usage", headers=headers)).json()["error"]["code"] == "usage_not_metered"
            refused = await client.post(CHAT, json=body(), headers=headers)
            assert refused.json()["error"]["code"] == "model_not_allowed"
            began = time.monotonic()
            publish(fake, record)
            await answered(lambda: client.get("/conversations", headers=headers), 401)
            assert time.monotonic() - began < 2.0
        assert '"team":"red"' in log.read_text()
        assert text not in log.read_text()


async def test_a_team_has_the_models_and_the_patience_of_its_own_pool(tmp_path: Path) -> None:
    text, record = make("red", "", 0.0, None)
    other_text, other = make("blue", "", 0.0, None)
    red, blue = ({"authorization": f"Bearer {key}"} for key in (text, other_text))
    async with FakeApi() as fake:
        World(fake).pool({"models": {"small": "haiku"}, "queueTimeout": "10m"})
        research = {"models": {"big": "opus"}, "queueTimeout": "1200ms"}
        fake.put(POOL_KIND, {"metadata": {"name": "research"}, "spec": research})
        fake.put(TEAM_KIND, {"metadata": {"name": "red"}, "spec": {"poolRef": {"name": "research"}}})
        fake.put(TEAM_KIND, {"metadata": {"name": "blue"}, "spec": {}})
        publish(fake, record, other)
        async with process(tmp_path, fake.server, TEAMS="true") as (_, client):
            await healthy(client)
            shown = [(await client.get("/v1/models", headers=headers)).json()["data"] for headers in (red, blue)]
            assert [[m["id"] for m in found][3:] for found in shown] == [["big"], ["small"]]
            assert (await client.post(CHAT, json=body(model="big"), headers=blue)).status_code == 404
            refused = await client.post(CHAT, json=body(model="big"), headers=red)
            assert refused.json()["error"]["code"] == "pool_exhausted"
            assert "within 1 s" in refused.text
            research["models"] = {"huge": "opus"}
            fake.put(POOL_KIND, {"metadata": {"name": "research"}, "spec": research})
            await answered(lambda: client.get("/v1/models/huge", headers=red), 200)


async def test_without_the_setting_nobody_asks_for_teams_or_secrets(tmp_path: Path) -> None:
    async with FakeApi() as fake:
        World(fake).pool()
        async with process(tmp_path, fake.server) as (_, client):
            await healthy(client)
        assert not [r.path for r in fake.requests if "secrets" in r.path or "claudeteams" in r.path]
