"""What goes wrong on a cluster, and how the sessions come out of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from claude_crds import asks
from claude_router.sessions import SessionFailed
from crds.fake_api import status
from operator_sim.api import CLAIM, POD
from operator_sim.cluster import Cluster, Lost, cluster, hurry, name
from operator_sim.kubelet import container


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def forbid_pods(c: Cluster) -> None:
    message = 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'

    def refuse(request: web.Request) -> web.Response | None:
        if (request.method, request.path) == ("POST", POD):
            return web.json_response(status(403, "Forbidden", message), status=403)
        return None

    c.api.refuse = refuse


async def test_a_pod_that_is_deleted_by_hand_comes_back_on_the_same_volume_without_an_ask() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a", "t1")
        [pod] = c.pods("a")
        c.api.begin_deletion(POD, pod)
        await c.until(lambda: c.phase("a") == "Ready" and c.status("a")["podName"] != pod, "another")
        assert c.status("a")["restarts"] == 1
        await c.turn("a", "t2")
        assert c.worker("a").volume.ran == ["t1", "t2"]


async def test_a_container_that_is_started_again_is_counted_and_serves_again() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a", "t1")
        [pod] = c.pods("a")
        await c.kubelet.restart(pod)
        await c.until(lambda: c.phase("a") == "Ready" and c.status("a")["restarts"] == 1, "counted")
        await c.turn("a", "t2")
        assert c.pods("a") == [pod]


async def test_a_turn_on_a_worker_that_dies_is_lost_once_and_the_next_one_is_served() -> None:
    async with cluster(pool={"size": 1}) as c:
        _, turn = await c.held("a", "t1")
        [pod] = c.pods("a")
        await c.kubelet.restart(pod)
        with pytest.raises(Lost):
            await turn
        await c.turn("a", "t2")
        assert c.worker("a").volume.ran[1:] == ["t1", "t2"]


async def test_a_worker_that_fails_is_replaced() -> None:
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        await c.until(c.spares, "a spare")
        [spare] = c.spares()
        c.kubelet.workers[spare].set(phase="failed", error="the CLI does not start")
        await c.until(lambda: c.spares() and c.spares() != [spare], "another spare")
        c.pool(warm=0)
        await c.turn("a")
        c.worker("a").set(phase="failed", error="no space left on device")
        await c.phased("a", "Failed")
        assert c.reason("a") == "WorkerFailed"
        assert "no space left on device" in c.status("a")["message"]
        await c.eventually("a")
        assert c.phase("a") == "Ready"


async def test_an_image_that_cannot_be_had_is_told_and_recovery_needs_no_request() -> None:
    async with cluster(pool={"size": 1}) as c:
        c.kubelet.image_fails = lambda pod: True
        with pytest.raises(SessionFailed, match="ImagePullBackOff"):
            await c.turn("a")
        assert (c.phase("a"), c.reason("a")) == ("Failed", "ImageUnavailable")
        await c.until(lambda: c.pool_reason() == "ImageUnavailable", "the pool, too")
        c.kubelet.image_fails = lambda pod: False
        await c.phased("a", "Suspended")
        await c.until(lambda: c.pool_reason() == "WorkersStart", "the pool, too")
        await c.until(lambda: not c.pods(), "the spare that found out is gone")
        await c.turn("a")


async def test_a_pod_that_does_not_get_ready_in_time_has_failed() -> None:
    async with cluster(pool={"size": 1}, start_timeout=1.0) as c:
        c.kubelet.boot = 3600.0
        with pytest.raises(SessionFailed, match="not ready after"):
            await c.turn("a")
        c.kubelet.boot = 0.0
        await c.eventually("a")


async def test_a_used_up_quota_is_told_and_recovers() -> None:
    async with cluster(pool={"size": 2}) as c:
        await c.turn("a")
        forbid_pods(c)
        with pytest.raises(SessionFailed, match="quota is used up"):
            await c.turn("b")
        assert (c.phase("b"), c.reason("b")) == ("Failed", "QuotaExceeded")
        assert c.phase("a") == "Ready"
        c.api.refuse = lambda request: None
        await c.phased("b", "Suspended")
        await c.turn("b")


async def test_a_lost_volume_is_told_and_the_session_recovers_with_it() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        c.laws.may_lose_claims.add(name("a"))
        c.suspend("a")
        await c.phased("a", "Suspended")
        [claim] = c.api.all(CLAIM)
        c.api.begin_deletion(CLAIM, claim["metadata"]["name"])
        with pytest.raises(SessionFailed, match=claim["metadata"]["name"]):
            await c.turn("a")
        assert (c.phase("a"), c.reason("a")) == ("Failed", "VolumeLost")
        assert c.claims() == []
        kept = {k: claim["metadata"][k] for k in ("name", "labels", "ownerReferences")}
        c.api.put(CLAIM, {"metadata": kept, "spec": claim["spec"]})
        await c.phased("a", "Suspended")
        await c.turn("a")


async def test_a_volume_that_is_restored_without_its_labels_is_found_by_its_name() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        c.laws.may_lose_claims.add(name("a"))
        c.suspend("a")
        await c.phased("a", "Suspended")
        [claim] = c.api.all(CLAIM)
        c.api.begin_deletion(CLAIM, claim["metadata"]["name"])
        with pytest.raises(SessionFailed):
            await c.turn("a")
        c.api.put(CLAIM, {"metadata": {"name": claim["metadata"]["name"]}, "spec": claim["spec"]})
        await c.eventually("a")


async def test_a_refused_key_is_told_and_all_workers_get_the_new_one() -> None:
    async with cluster(pool={"size": 3, "warm": 1}) as c:
        await c.turn("a")
        await c.until(c.spares, "a spare")
        [spare] = c.spares()
        c.worker("a").set(problem="key_refused")
        await c.phased("a", "Failed")
        assert c.reason("a") == "KeyRefused"
        await c.until(lambda: c.spares() and c.spares() != [spare], "a spare with the Secret's present key")
        assert c.phase("a") == "Failed"
        await c.eventually("a")
        assert c.phase("a") == "Ready"


async def test_the_api_server_may_be_away_and_the_workers_go_on() -> None:
    async with cluster(pool={"size": 2}) as c:
        worker, turn = await c.held("a")
        await c.turn("b")
        before = sorted(c.pods())
        await c.api.stop()
        worker.release()
        await turn
        assert await c.turn("a") == 1
        assert await c.turn("b") == 1
        late = c.request("c")
        await asyncio.sleep(0)
        await c.api.start()
        await late
        assert c.kubelet.killed_busy == []
        assert len(set(before) & set(c.pods())) == 1
        await c.until(lambda: len([s for s in "abc" if c.phase(s) == "Ready"]) == 2, "two of three")


async def test_what_was_deleted_while_nobody_watched_is_found_out() -> None:
    async with cluster(pool={"size": 3}) as c:
        for conversation in "abc":
            await c.turn(conversation)
        [pod] = c.pods("b")
        await c.api.stop()
        c.delete_session("a")
        c.api.begin_deletion(POD, pod)
        await c.until(lambda: pod not in c.pods(), "b's pod is gone")
        c.api.compact()
        await c.api.start()
        await c.until(lambda: not c.pods("a") and len(c.claims()) == 2, "a's worker is gone")
        await c.until(lambda: c.phase("b") == "Ready" and c.status("b")["podName"] != pod, "b has another")
        assert c.status("b")["restarts"] == 1
        assert len(c.kubelet.every) == 4


async def test_a_new_operator_touches_nothing_that_lives_however_old_it_is() -> None:
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        worker, turn = await c.held("a")
        await c.until(c.spares, "a spare")
        before = sorted(c.pods())
        for pod in c.api.all(POD):
            old = {**pod["metadata"], "creationTimestamp": "2020-01-31T12:00:00Z"}
            c.api.patch(POD, pod["metadata"]["name"], metadata=old)
        await c.operator.kill()
        await c.another_operator()
        assert await c.turn("b") == 1
        await c.until(lambda: c.phase("a") == "Ready" and c.phase("b") == "Ready", "both")
        assert sorted(c.pods()) == before
        worker.release()
        await turn


async def test_a_worker_that_cannot_be_heard_is_asked_before_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks, "LAPSE_SECONDS", 0.3)
    async with cluster(pool={"size": 1}) as c:
        worker, turn = await c.held("a")
        worker.silent = True
        worker.cut()
        await c.phased("a", "Starting")
        c.suspend("a")
        await c.until(lambda: worker.drains or c.leaving(worker.pod), "asked")
        assert not c.leaving(worker.pod)
        worker.silent = False
        await c.phased("a", "Ready")
        worker.release()
        await turn
        await c.phased("a", "Suspended")


async def test_a_crash_loop_is_told_with_the_last_words() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        [pod] = c.pods("a")
        worker = c.kubelet.workers.pop(pod)
        await worker.stop()
        last: dict[str, Any] = {"terminated": {"exitCode": 2, "reason": "Error", "message": "x\nNo key.\n"}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
        c.kubelet.status(pod, "Running", container(restarts=6, state=waiting, last=last))
        await c.phased("a", "Failed")
        assert c.status("a")["message"] == "Container worker keeps ending: Error, status 2: No key."
        await c.eventually("a")
