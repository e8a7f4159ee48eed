"""A token is good as long as its pod is there and bound to a session that is there; over the fake API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from claude_crds.resources import (
    COMPONENT_LABEL,
    PODS,
    POOL_LABEL,
    SESSION_LABEL,
    SESSION_UID_LABEL,
    SESSIONS,
    TEAMS,
    WORKER,
)
from claude_router.gateway.callers import Caller
from claude_router.gateway.cluster import Cluster, GatewayApi
from claude_router.gateway.settings import GatewaySettings
from claude_router.gateway.teams import OPEN
from claude_worker.openai.errors import ApiError
from crds.fake_api import PATIENCE, Json
from router.gateway.harness import until
from router.gateway.issuer import SigningApi

pytestmark = pytest.mark.asyncio

POD_KIND, SESSION_KIND, TEAM_KIND = PODS.path("ns"), SESSIONS.path("ns"), TEAMS.path("ns")
GONE = "2030-01-31T12:00:00Z"


def pod(name: str = "pod-1", *, session: str = "conv-a", uid: str = "s-1", **meta: str) -> Json:
    bound = {SESSION_LABEL: session, SESSION_UID_LABEL: uid} if session else {}
    labels = {COMPONENT_LABEL: WORKER, POOL_LABEL: "default", **bound}
    return {"metadata": {"name": name, "uid": "uid-1", "labels": labels, **meta}}


def session(team: str = "red", **meta: str) -> Json:
    return {"metadata": {"name": "conv-a", "uid": "s-1", **meta}, "spec": {"conversationID": "a", "team": team}}


@dataclass
class World:
    """The fake API server, and a gateway's copy of it."""

    fake: SigningApi
    cluster: Cluster

    async def check(self, **of: str) -> Caller:
        return await self.cluster.credentials.check(self.fake.issuer.token(**of))

    async def refused(self, **of: str) -> str:
        """Why, as soon as it is; the watch brings it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.check(**of)
                except ApiError as error:
                    return f"{error.status} {error.message}"
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def world(*objects: tuple[str, Json], patience: float = 0.05) -> AsyncIterator[World]:
    fake = SigningApi()
    async with fake:
        for kind, body in objects:
            fake.put(kind, body)
        async with GatewayApi(fake.loader) as api:
            assert isinstance(api, GatewayApi)
            cluster = Cluster(api, "ns", GatewaySettings())
            cluster.credentials._patience = patience  # type: ignore[attr-defined]
            cluster.begin()
            for reflector in (cluster.pods, cluster.sessions, cluster.teams, cluster.pools):
                await reflector.wait_synced()
            try:
                yield World(fake, cluster)
            finally:
                await cluster.close()


BOUND = ((POD_KIND, pod()), (SESSION_KIND, session()))


async def test_a_bound_pod_is_its_sessions() -> None:
    async with world(*BOUND) as w:
        assert await w.check() == Caller("conv-a", "red", "default", "pod-1", "s-1")
        assert w.cluster.problem == ""


async def test_a_session_without_a_team_is_everybodys() -> None:
    async with world((POD_KIND, pod()), (SESSION_KIND, session(team=""))) as w:
        caller = await w.check()
        assert caller.team == "default"
        assert w.cluster.policies.policy(caller) is OPEN


@pytest.mark.parametrize("objects", [
    (), BOUND[:1], BOUND[1:], ((POD_KIND, pod(session="")), BOUND[1]), ((POD_KIND, pod(uid="s-0")), BOUND[1]),
    ((POD_KIND, pod(deletionTimestamp=GONE)), BOUND[1]), (BOUND[0], (SESSION_KIND, session(deletionTimestamp=GONE))),
    ((POD_KIND, {**pod(), "metadata": {**pod()["metadata"], "uid": "uid-0"}}), BOUND[1]),
])  # fmt: skip
async def test_anything_less_is_refused(objects: tuple[tuple[str, Json], ...]) -> None:
    async with world(*objects) as w:
        assert (await w.refused()).startswith("401 ")


@pytest.mark.parametrize(
    "claims", [{"kubernetes.io": {"namespace": "other", "pod": {"name": "pod-1", "uid": "uid-1"}}}]
)
async def test_a_pod_of_another_namespace_is_refused(claims: Json) -> None:
    async with world(*BOUND) as w:
        with pytest.raises(ApiError, match="another namespace"):
            await w.cluster.credentials.check(w.fake.issuer.token(**claims))


async def test_it_is_revoked_with_its_pod_or_session() -> None:
    async with world(*BOUND) as w:
        await w.check()
        w.fake.put(POD_KIND, pod(deletionTimestamp=GONE))
        assert (await w.refused()).startswith("401 ")
        w.fake.put(POD_KIND, {**pod(), "metadata": {**pod()["metadata"], "deletionTimestamp": None}})
        w.fake.remove(SESSION_KIND, "conv-a")
        assert (await w.refused()).startswith("401 ")


async def test_a_spare_that_has_just_been_claimed_need_not_wait_for_our_copy() -> None:
    async with world((POD_KIND, pod(session="")), patience=PATIENCE) as w:
        waiting = asyncio.create_task(w.check())
        await asyncio.sleep(0)
        w.fake.put(POD_KIND, pod())
        w.fake.put(SESSION_KIND, session())
        assert (await waiting).session == "conv-a"


async def test_before_anything_has_been_listed_nobody_can_tell() -> None:
    fake = SigningApi()
    async with fake, GatewayApi(fake.loader) as api:
        assert isinstance(api, GatewayApi)
        cluster = Cluster(api, "ns", GatewaySettings())
        assert cluster.problem
        with pytest.raises(ApiError) as refused:
            await cluster.credentials.check(fake.issuer.token())
        assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "1")


async def test_teams_are_followed() -> None:
    team = {"metadata": {"name": "red"}, "spec": {"models": ["claude-code-sonnet"], "budget": {"usd": 5}}}
    async with world(*BOUND, (TEAM_KIND, team)) as w:
        caller = await w.check()
        policy = w.cluster.policies.policy(caller)
        assert policy is not None
        permitted = [m for m in ("claude-sonnet-5", "claude-opus-5", "claude-haiku-4-5") if policy.permits(m)]
        assert permitted == ["claude-sonnet-5", "claude-haiku-4-5"]
        assert w.cluster.policies.policy(caller) is policy
        w.fake.remove(TEAM_KIND, "red")
        await until(lambda: w.cluster.policies.policy(caller) is None)
