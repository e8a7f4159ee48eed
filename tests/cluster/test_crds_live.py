"""The definitions, the API client and the reflector on a real API server: what it refuses, and in which words."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from claude_crds import asks
from claude_crds.access import from_kubeconfig
from claude_crds.api import Api
from claude_crds.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from claude_crds.events import Step, event
from claude_crds.install import install as install_definitions
from claude_crds.install import read
from claude_crds.reflector import Reflector
from claude_crds.resources import EVENTS, POOLS, SESSIONS, TEAMS, Phase, Resource, timestamp
from cluster.chart import provided
from cluster.node import tools
from crds.fake_api import PATIENCE

pytestmark = [pytest.mark.cluster]
DEFINITIONS = Path(__file__).resolve().parents[2] / "crds"
NAMESPACES: Resource[dict[str, Any]] = Resource("v1", "Namespace", "namespaces", dict)
Json = dict[str, Any]


@dataclass
class Live:
    api: Api
    kubeconfig: Path
    namespace: str

    async def pool(self, spec: Json, name: str = "p") -> Json:
        """Create a pool with this spec, and take it away again; what the server made of it."""
        whole = Resource(POOLS.api_version, POOLS.kind, POOLS.plural, dict)
        made = await self.api.create(whole, self.namespace, {"metadata": {"name": name}, "spec": spec})
        await self.api.delete(POOLS, self.namespace, name)
        found: Json = made["spec"]
        return found

    async def refused(self, spec: Json, name: str = "p") -> str:
        with pytest.raises(Invalid) as caught:
            await self.pool(spec, name)
        return str(caught.value)

    async def team(self, spec: Json) -> Json:
        """The same for a team."""
        whole = Resource(TEAMS.api_version, TEAMS.kind, TEAMS.plural, dict)
        made = await self.api.create(whole, self.namespace, {"metadata": {"name": "t"}, "spec": spec})
        await self.api.delete(TEAMS, self.namespace, "t")
        found: Json = made["spec"]
        return found

    def kubectl(self, *arguments: str) -> str:
        command = [str(tools.find("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    """An empty namespace. The definitions stay installed afterwards, as the chart leaves them, too."""
    kubeconfig = provided()
    async with Api(lambda: from_kubeconfig(str(kubeconfig))) as api:
        await install(api)
        namespace = f"crds-test-{uuid.uuid4().hex[:8]}"
        await api.create(NAMESPACES, "", {"metadata": {"name": namespace}})
        try:
            yield Live(api, kubeconfig, namespace)
        finally:
            await api.delete(NAMESPACES, "", namespace)


async def install(api: Api) -> None:
    """Apply the definitions, and wait until they are served."""
    await install_definitions(api, read(DEFINITIONS))
    # Established comes a moment before it is served; a reflector bears that.
    sessions, pools = Reflector(api, SESSIONS, "default"), Reflector(api, POOLS, "default")
    tasks = [asyncio.create_task(sessions.run()), asyncio.create_task(pools.run())]
    async with asyncio.timeout(PATIENCE):
        await sessions.wait_synced()
        await pools.wait_synced()
    for task in tasks:
        task.cancel()


async def test_what_a_pool_may_be_and_what_it_may_not(live: Live) -> None:
    made = await live.pool({})
    assert (made["size"], made["warm"], made["workspace"]["size"]) == (5, 1, "10Gi")
    assert made["workspace"]["accessModes"] == ["ReadWriteOnce"]
    template = {
        "metadata": {"labels": {"team": "a"}},
        "spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "worker", "env": [{"name": "A", "value": "b"}]}]},
    }
    assert (await live.pool({"podTemplate": template}))["podTemplate"] == template
    allowed: list[Json] = [{"size": 0, "warm": 3}, {"size": 3, "warm": 3}, {"models": {"a/b.c": "x"}}]
    allowed += [{"idleTimeout": d} for d in ("0", "0s", "1s", "90s", "1h30m", "8760h")]
    allowed += [{"queueTimeout": "0"}, {"queueTimeout": "500ms"}, {"retention": "720h"}, {"toolActivity": "off"}]
    allowed += [{"workspace": {"size": s, "accessModes": ["ReadWriteMany"]}} for s in ("1Mi", "10Gi", "1.5Ti")]
    allowed += [{"anthropic": {"baseURL": "http://198.18.0.1:8080/v1", "secretRef": {"name": "key"}}}]
    servers = {"tracker": {"type": "http", "url": "https://mcp.example.com", "headers": {"A": "${TOKEN}"}}}
    claude = {"mcpServers": servers, "memory": "m", "settings": {"env": {"A": "b"}}, "commands": {"review": "r"}}
    assert (await live.pool({"claude": claude}))["claude"] == claude | {"slashCommands": False}
    allowed += [{"tools": "client"}, {"parkTimeout": "0"}, {"parkTimeout": "168h"}, {"remoteImages": True}]
    for spec in allowed:
        await live.pool(spec)

    told = await live.refused({"size": 2, "warm": 3})
    assert "spec.warm must be at most spec.size, since the warm spares are part of it" in told
    assert "greater than or equal to 0" in await live.refused({"size": -1})
    for bad in ("", "5", "1d", "5M", "-5m", "1.5h", "5m1h", "9000h", "999ms", "99999999h"):
        told = await live.refused({"idleTimeout": bad})
        assert f'spec.idleTimeout: Invalid value: "{bad}": must be a duration from 1s to 8760h, such as 90s' in told
    assert "must be a duration from 0s to 24h" in await live.refused({"queueTimeout": "25h"})
    assert "must be a duration from 1s to 8760h, such as 10m or 1h" in await live.refused({"turnTimeout": "0"})
    for bad in ("", "1", "10GB", "0", "-1Gi"):
        told = await live.refused({"workspace": {"size": bad}})
        assert "must be a size of at least 1Mi, such as 500Mi or 10Gi" in told
    assert '"ReadWriteMany"' in await live.refused({"workspace": {"accessModes": ["ReadOnlyMany"]}})
    for name in ("claude-code", "claude-code-tools", "claude-code-client", "a:b", "", "x" * 129):
        assert "names must be of letters, digits" in await live.refused({"models": {name: "x"}})
    assert "must be a duration from 0s to 168h" in await live.refused({"parkTimeout": "169h"})
    for name in ("client", "a b", ""):
        assert "and other than client, which the" in await live.refused({"claude": {"mcpServers": {name: {}}}})
    for kind in ("commands", "agents"):
        assert "names must be of lower-case letters" in await live.refused({"claude": {kind: {"a/b": "x"}}})
    for bad in ("", "x", "ftp://x", "https://"):
        told = await live.refused({"anthropic": {"baseURL": bad}})
        assert "must be a URL such as https://gateway.example.com" in told
    assert 'supported values: "bypassPermissions", "acceptEdits"' in await live.refused({"permissionMode": "all"})
    assert "metadata.name: Too long" in await live.refused({}, "x" * 64)


async def test_what_a_team_may_be_and_what_it_may_not(live: Live) -> None:
    made = await live.team({"budget": {"usd": 0.5}})
    assert (made["poolRef"], made["models"], made["admin"]) == ({"name": "default"}, [], False)
    assert made["budget"] == {"usd": 0.5, "period": "month", "warnPercent": 80}
    own = {"secretRef": {"name": "own"}, "baseURL": "https://gateway.example.com"}
    limits = {"maxSessions": 9, "maxLive": 2, "maxConcurrentTurns": 3, "requestsPerMinute": 60}
    for spec in ({}, limits, {"anthropic": own}, {"models": ["claude-code", "a/b.c"]}, {"budget": {"usd": 50}}):
        await live.team(spec)
    refused: list[tuple[Json, str]] = [({limit: 0}, "greater than or equal to 1") for limit in limits]
    refused += [({"budget": {"usd": usd}}, "spec.budget.usd") for usd in (0, -1, 2e9)]
    refused += [({"budget": budget}, "spec.budget") for budget in ({}, {"usd": 1, "period": "week"})]
    refused += [({"budget": {"usd": 1, "warnPercent": 101}}, "spec.budget.warnPercent")]
    refused += [({"models": [name]}, "must be of letters, digits") for name in ("", "a b", "-a")]
    refused += [({"models": ["a", "a"]}, "Duplicate value"), ({"models": ["x" * 129]}, "spec.models[0]")]
    refused += [({"anthropic": {"baseURL": own["baseURL"]}}, "must have a secretRef with a baseURL")]
    refused += [({"anthropic": own | {"baseURL": "x"}}, "must be a URL such as https://gateway.example.com")]
    for spec, told in refused:
        with pytest.raises(Invalid) as caught:
            await live.team(spec)
        assert told in str(caught.value)


async def test_the_team_of_a_conversation_is_its_tenant_for_good(live: Live) -> None:
    api, ns = live.api, live.namespace
    spec = {"conversationID": "c", "tenant": "t", "team": "t"}
    made = await api.create(SESSIONS, ns, {"metadata": {"name": "a"}, "spec": spec})
    assert made.spec.team == "t"
    for team in ("", None, "u"):
        with pytest.raises(Invalid, match=r"spec\.team cannot be changed"):
            await api.patch(SESSIONS, ns, "a", {"spec": {"team": team}})
    with pytest.raises(Invalid, match=r"spec\.team must be the same as spec\.tenant"):
        await api.create(SESSIONS, ns, {"metadata": {"name": "b"}, "spec": spec | {"tenant": "default"}})


async def test_what_a_conversation_is_cannot_be_changed_and_how_it_runs_can(live: Live) -> None:
    api, ns, metadata = live.api, live.namespace, {"metadata": {"name": "a"}}
    made = await api.create(SESSIONS, ns, {**metadata, "spec": {"conversationID": "größe/№7"}})
    assert (made.spec.tenant, made.pool, made.spec.desired_state) == ("default", "default", "Running")
    with pytest.raises(AlreadyExists):
        await api.create(SESSIONS, ns, {**metadata, "spec": {"conversationID": "b"}})
    for field, value, told in [
        ("conversationID", "b", "spec.conversationID cannot be changed"),
        ("tenant", "b", "spec.tenant cannot be changed"),
        ("poolRef", {"name": "b"}, "spec.poolRef cannot be changed"),
        ("workspaceClaimName", "b", "spec.workspaceClaimName cannot be added or removed later"),
        ("desiredState", "Stopped", 'supported values: "Running", "Suspended"'),
        ("lastRequestTime", "2030-01-31 12:00", "must be a time such as 2030-01-31T12:00:00Z"),
    ]:
        with pytest.raises(Invalid, match=told):
            await api.patch(SESSIONS, ns, "a", {"spec": {field: value}})
    own = {"metadata": {"name": "own"}, "spec": {"conversationID": "c", "workspaceClaimName": "mine"}}
    await api.create(SESSIONS, ns, own)
    for claim in ("other", None):
        with pytest.raises(Invalid, match="workspaceClaimName cannot be"):
            await api.patch(SESSIONS, ns, "own", {"spec": {"workspaceClaimName": claim}})
    for spec in ({}, {"conversationID": ""}, {"conversationID": "x" * 257}):
        with pytest.raises(Invalid, match=r"spec\.conversationID"):
            await api.create(SESSIONS, ns, {"metadata": {"name": "bad"}, "spec": spec})
    await api.create(SESSIONS, ns, {"metadata": {"name": "long"}, "spec": {"conversationID": "№" * 256}})


async def test_asks_as_the_server_numbers_them(live: Live) -> None:
    api, ns = live.api, live.namespace
    made = await api.create(SESSIONS, ns, {"metadata": {"name": "a"}, "spec": {"conversationID": "a"}})
    assert asks.asked(made, time.time())
    suspended = {"phase": Phase.SUSPENDED, "observedGeneration": made.metadata.generation}
    quiet = await api.patch(SESSIONS, ns, "a", {"status": suspended}, subresource="status")
    assert (quiet.metadata.generation, asks.must_ask(quiet)) == (1, True)
    asked = await api.patch(SESSIONS, ns, "a", asks.ask(time.time()))
    assert (asked.metadata.generation, asks.asked(asked, time.time()), asks.must_ask(asked)) == (2, True, False)
    wished = await api.patch(SESSIONS, ns, "a", {"spec": {"desiredState": "Suspended"}})
    assert (wished.metadata.generation, asks.asked(wished, time.time())) == (3, False)
    renewed = await api.patch(SESSIONS, ns, "a", asks.renewal(time.time()))
    assert (renewed.metadata.generation, renewed.spec.desired_state) == (4, "Suspended")


async def test_preconditions_and_errors(live: Live) -> None:
    api, ns = live.api, live.namespace
    first = await api.create(SESSIONS, ns, {"metadata": {"name": "a"}, "spec": {"conversationID": "a"}})
    stale, other = first.metadata.resource_version, "00000000-0000-0000-0000-000000000000"
    change: Json = {"metadata": {"labels": {"x": "y"}}}
    await api.patch(SESSIONS, ns, "a", change, resource_version=stale, uid=first.metadata.uid)
    with pytest.raises(Conflict):
        await api.patch(SESSIONS, ns, "a", {"metadata": {"labels": {"x": "z"}}}, resource_version=stale)
    with pytest.raises(Conflict):
        await api.patch(SESSIONS, ns, "a", {"status": {"turns": 1}}, subresource="status", resource_version=stale)
    with pytest.raises(Conflict):
        await api.patch(SESSIONS, ns, "a", {"spec": {"desiredState": "Suspended"}}, uid=other)
    with pytest.raises(Conflict):
        await api.delete(SESSIONS, ns, "a", resource_version=stale)
    with pytest.raises(Conflict):
        await api.delete(SESSIONS, ns, "a", uid=other)
    with pytest.raises(NotFound):
        await api.get(SESSIONS, ns, "b")
    with pytest.raises(ApiError, match="unable to parse"):
        await api.list(SESSIONS, ns, label_selector="a in b in c")
    await api.delete(SESSIONS, ns, "a", uid=first.metadata.uid)


async def test_what_kubectl_shows_and_does(live: Live) -> None:
    api, ns = live.api, live.namespace
    await api.create(POOLS, ns, {"metadata": {"name": "default"}, "spec": {"warm": 2}})
    made = await api.create(SESSIONS, ns, {"metadata": {"name": "a"}, "spec": {"conversationID": "my-id"}})
    active = {"lastActiveTime": timestamp(time.time() - 70), "usage": {"costUSD": 0.0421}, "turns": 3}
    status = {"phase": "Ready", "podName": "w-1", "message": "all well", **active}
    await api.patch(SESSIONS, ns, "a", {"status": status}, subresource="status")
    head, row = live.kubectl("get", "csess").splitlines()
    assert head.split() == ["NAME", "CONVERSATION", "POOL", "PHASE", "POD", "LAST-ACTIVE", "TURNS", "COST", "AGE"]
    assert row.split()[:8] == ["a", "my-id", "default", "Ready", "w-1", row.split()[5], "3", "0.0421"]
    assert row.split()[5] in ("70s", "71s", "72s")
    wide = live.kubectl("get", "conv", "-o", "wide")
    assert "all well" in wide
    assert {"claudepool", "claudesession"} == {line.split(".")[0] for line in _named(live, "get", "claude")}
    body = event(SESSIONS, made, Step.READY, "takes turns", now=time.time())
    await api.create(EVENTS, ns, body)
    assert "takes turns" in live.kubectl("describe", "claudesession", "a")
    live.kubectl("scale", "claudepool", "default", "--replicas=20")
    assert (await api.get(POOLS, ns, "default")).spec.size == 20
    with pytest.raises(AssertionError, match=r"spec\.warm must be at most spec\.size"):
        live.kubectl("scale", "cpool", "default", "--replicas=1")
    live.kubectl("scale", "cpool", "default", "--replicas=0")
    assert (await api.get(POOLS, ns, "default")).spec.size == 0
    explained = live.kubectl("explain", "claudepool.spec.warm")
    assert "Spares kept booted, inside size" in explained


def _named(live: Live, *arguments: str) -> list[str]:
    return live.kubectl(*arguments, "-o", "name").split()


async def test_the_reflector_follows_and_finds_its_way_back_after_a_410(live: Live) -> None:
    api, ns = live.api, live.namespace
    for name in ("a", "b", "c"):
        await api.create(SESSIONS, ns, {"metadata": {"name": name}, "spec": {"conversationID": name}})
    reflector = Reflector(api, SESSIONS, ns, page=2)
    # As if it had been away for longer than the server remembers.
    reflector._cache.replace([], "1")
    reflector._relist = False
    task = asyncio.create_task(reflector.run())
    deadline = asyncio.get_running_loop().time() + PATIENCE
    await reflector.wait_for("c", lambda s: s is not None, deadline=deadline)
    assert sorted(s.name for s in reflector.items()) == ["a", "b", "c"]
    await api.delete(SESSIONS, ns, "b")
    assert await reflector.wait_for("b", lambda s: s is None, deadline=deadline) is None
    written = await api.patch(SESSIONS, ns, "a", asks.ask(time.time()))
    reflector.learn(written)
    assert reflector.get("a") == written
    changed = await api.patch(SESSIONS, ns, "a", asks.ask(time.time()))
    seen = await reflector.wait_for("a", lambda s: s is not None and s.metadata.generation == 3, deadline=deadline)
    assert seen == changed
    task.cancel()
