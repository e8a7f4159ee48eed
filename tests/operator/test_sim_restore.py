"""Sessions that a backup brought back, and workers that an earlier key was given to."""

from __future__ import annotations

import copy

import pytest

from crds.fake_api import merge
from operator_sim.api import CLAIM, SESSION
from operator_sim.cluster import cluster, hurry, name


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.mark.parametrize("owned", [False, True])
async def test_a_restored_session_finds_its_volume_if_nobody_owns_that(owned: bool) -> None:
    """One that is still a deleted namesake's goes with it, and must not be found."""
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a", "t1")
        session, claim = copy.deepcopy(c.session("a")), copy.deepcopy(c.api.get(CLAIM, c.claims()[0]))
        assert claim is not None
        c.api.begin_deletion(SESSION, name("a"))
        await c.until(lambda: not c.claims() and not c.pods() and not c.session("a"), "all gone")

        restored = {"name": name("a")}
        volume = {key: claim["metadata"][key] for key in ("name", "labels", "ownerReferences")}
        if not owned:
            del volume["ownerReferences"]
        c.api.put(CLAIM, {"metadata": volume, "spec": claim["spec"], "status": {"phase": "Bound"}})
        c.api.put(SESSION, {"metadata": restored, "spec": {**session["spec"], "desiredState": "Suspended"}})
        await c.phased("a", "Suspended")
        await c.turn("a", "t2")
        found = c.status("a")["volumeClaimName"]
        assert (found == volume["name"]) is not owned
        if not owned:
            await c.until(lambda: (c.api.get(CLAIM, found) or {})["metadata"].get("ownerReferences"), "it is its own")


async def test_a_worker_with_another_key_is_replaced() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a", "t1")
        [pod] = c.pods("a")
        c.worker("a").token_sha = ""
        await c.kubelet.restart(pod)
        await c.until(lambda: pod not in c.pods(), "it is ended")
        await c.eventually("a", "t2")
        assert c.worker("a").volume.ran == ["t1", "t2"]


async def test_a_worker_that_the_operator_before_has_ended_is_no_loss() -> None:
    """The new one finds its pod still going: the request that waits for it gets the next worker, and no error."""
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a", "t1")
        [pod] = c.pods("a")
        c.kubelet.stop_seconds = 0.5
        c.api.put(SESSION, merge(c.session("a"), {"spec": {"desiredState": "Suspended"}}))
        await c.until(lambda: c.leaving(pod), "its pod is deleted")
        await c.operator.kill()
        await c.another_operator()
        await c.turn("a", "t2")
        assert c.status("a")["restarts"] == 0
        assert c.worker("a").volume.ran == ["t1", "t2"]
