"""A pool's `podTemplate` that makes no pod, on a simulated cluster: told, tried ever more seldom, and mended."""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiohttp import web

from claude_router.sessions import SessionFailed
from crds.fake_api import Json, status
from operator_sim.api import CLAIM, POD
from operator_sim.cluster import Cluster, cluster, hurry

NUMBER = (
    'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field'
    " EnvVar.spec.containers.env.value of type string"
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


class Refused:
    """The API server answers each new pod so, until `over`."""

    def __init__(self, c: Cluster, code: int, reason: str, message: str) -> None:
        self.tries = 0
        self._api = c.api
        self._answer = status(code, reason, message), code
        c.api.refuse = self._refuse

    def _refuse(self, request: web.Request) -> web.Response | None:
        if (request.method, request.path) != ("POST", POD):
            return None
        self.tries += 1
        # Whoever waits for a number of tries is woken by no object.
        self._api._changed.set()
        body, code = self._answer
        return web.json_response(body, status=code)

    def over(self) -> None:
        self._api.refuse = lambda request: None


def worker(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


def most_claims(c: Cluster) -> list[int]:
    """How many claims there are at a time, at each change of one."""
    counts = [len(c.claims())]

    def count(change: str, kind: str, body: Json) -> None:
        if kind == CLAIM:
            counts.append(len(c.claims()))

    c.api.listeners.append(count)
    return counts


def told(c: Cluster, words: str) -> bool:
    """Whether a warning about the pool says so."""
    about = [e for e in c.api.events if e["involvedObject"]["kind"] == "ClaudePool" and e["type"] == "Warning"]
    return any(words in e["message"] for e in about)


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (400, "BadRequest", NUMBER),
        (422, "Invalid", "spec.containers[0].env[3].name: Invalid value"),
        (403, "Forbidden", "violates PodSecurity"),
    ],
)
async def test_a_pod_that_the_api_server_refuses_is_told_and_leaves_no_volumes(
    code: int, reason: str, message: str
) -> None:
    async with cluster(pool={"size": 3, "warm": 1}) as c:
        await c.until(c.spares, "a spare")
        refused, counts = Refused(c, code, reason, message), most_claims(c)
        c.pool(podTemplate=worker(env=[{"name": "API_TIMEOUT_MS", "value": 60000}]))
        await c.until(lambda: refused.tries >= 5, "tries")
        await c.until(lambda: c.pool_reason() == "PodRefused", "the pool says so")
        assert message in c.pool_status()["conditions"][0]["message"]
        await c.until(lambda: told(c, message), "an Event")
        with pytest.raises(SessionFailed, match=re.escape(message)):
            await c.turn("a")
        assert (c.phase("a"), c.reason("a")) == ("Failed", "PodRefused")
        await c.until(lambda: len(c.claims()) == 1, "the volume of a, and of no spare")
        assert max(counts) <= 3, counts
        refused.over()
        c.pool(podTemplate={})
        await c.until(lambda: c.pool_reason() == "WorkersStart", "the pool is well")
        await c.eventually("a")


async def test_for_a_template_that_the_api_server_refuses_not_every_worker_goes() -> None:
    async with cluster(pool={"size": 4, "warm": 1}) as c:
        for name in ("a", "b", "c"):
            await c.turn(name, "t1")
        await c.until(c.spares, "a spare")
        before = set(c.pods()) - set(c.spares())
        refused = Refused(c, 422, "Invalid", "spec.containers[0].env[3].name: Invalid value")
        c.pool(podTemplate=worker(env=[{"name": "A B", "value": "x"}]))
        await c.until(lambda: refused.tries >= 6, "tries")
        # The spare, and one more before the first refusal.
        assert len(before - set(c.pods())) <= 1
        assert c.pool_reason() == "PodRefused"
        await c.turn("c", "t2")
        refused.over()
        c.pool(podTemplate={"metadata": {"labels": {"team": "x"}}})
        await c.until(lambda: not set(c.pods()) & before, "all are replaced")
        await c.eventually("c", "t3")
        assert c.worker("c").volume.ran == ["t1", "t2", "t3"]


async def test_in_a_full_pool_a_mended_template_replaces_workers_again() -> None:
    async with cluster(pool={"size": 2}) as c:
        for name in ("a", "b"):
            await c.turn(name)
        before = set(c.pods())
        refused = Refused(c, 422, "Invalid", "spec.containers[0].env[3].name: Invalid value")
        c.pool(podTemplate=worker(env=[{"name": "A B", "value": "x"}]))
        await c.until(lambda: len(set(c.pods()) & before) == 1, "one is gone")
        with pytest.raises(SessionFailed):
            await c.turn("c")
        refused.over()
        c.pool(podTemplate={"metadata": {"labels": {"team": "x"}}})
        await c.until(lambda: not set(c.pods()) & before, "the other is replaced")
        await c.until(lambda: c.pool_reason() == "WorkersStart", "the pool is well")


async def test_a_session_whose_pod_is_refused_keeps_its_one_claim() -> None:
    async with cluster(pool={"size": 1}) as c:
        refused, counts = Refused(c, 400, "BadRequest", NUMBER), most_claims(c)
        for _ in range(3):
            with pytest.raises(SessionFailed):
                await c.turn("a")
        [claim] = [x for x in c.claims() if x.startswith(c.session("a")["metadata"]["name"])]
        assert max(counts) <= 2, counts
        refused.over()
        await c.eventually("a")
        assert c.status("a")["volumeClaimName"] == claim


@pytest.mark.parametrize(
    ("template", "field"),
    [
        (worker(env={"A": "b"}), r"podTemplate\.spec\.containers\[worker\]\.env is a map"),
        (worker(env=[{"value": "b"}]), r"podTemplate\.spec\.containers\[worker\]\.env\[0\] has no name"),
        ({"spec": {"volumes": {"a": {}}}}, r"podTemplate\.spec\.volumes is a map"),
    ],
)
async def test_a_template_of_which_no_pod_can_be_made_is_told_and_costs_nobody_a_worker(
    template: dict[str, Any], field: str
) -> None:
    async with cluster(pool={"size": 3}) as c:
        await c.turn("a", "t1")
        before, counts = c.pods("a"), most_claims(c)
        c.pool(podTemplate=template)
        with pytest.raises(SessionFailed, match=field):
            await c.turn("b")
        assert (c.phase("b"), c.reason("b")) == ("Failed", "PodRefused")
        await c.until(lambda: c.pool_reason() == "PodRefused", "the pool says so")
        await c.until(lambda: told(c, "podTemplate.spec"), "an Event")
        await c.turn("a", "t2")
        assert c.pods("a") == before
        assert counts == [1]
        c.pool(podTemplate={"metadata": {"labels": {"team": "x"}}})
        await c.until(lambda: c.pool_reason() == "WorkersStart", "the pool is well")
        await c.eventually("b")
        await c.eventually("a", "t3")
        assert c.worker("a").volume.ran == ["t1", "t2", "t3"]


async def test_a_full_pool_says_that_its_template_is_bad_and_that_it_is_well_again() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        before = c.pods()
        c.pool(podTemplate={"spec": {"containers": {}}})
        await c.until(lambda: c.pool_reason() == "PodRefused", "the pool says so")
        c.pool(podTemplate={})
        await c.until(lambda: c.pool_reason() == "WorkersStart", "the pool is well")
        assert c.pods() == before


async def test_a_new_operator_finds_a_bad_template_and_touches_nothing() -> None:
    async with cluster(pool={"size": 2}) as c:
        await c.turn("a")
        before = c.pods("a")
        await c.operator.kill()
        c.pool(podTemplate=worker(env=[{}]))
        await c.another_operator()
        await c.until(lambda: c.pool_reason() == "PodRefused", "the pool says so")
        assert await c.turn("a") == 1
        assert c.pods("a") == before
