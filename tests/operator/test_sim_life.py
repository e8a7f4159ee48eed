"""A session's life on a simulated cluster: the real operator and router over HTTP; pods and workers are not real."""

from __future__ import annotations

import asyncio

import pytest

from claude_router.sessions import ConversationKey
from operator_sim.api import CLAIM, POD
from operator_sim.cluster import cluster, hurry, name


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def test_a_new_conversation_claims_a_warm_worker() -> None:
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        await c.until(c.spares, "a spare")
        [spare] = c.spares()
        assert await c.turn("a") == 1
        assert c.pods("a") == [spare]
        await c.until(lambda: len(c.spares()) == 1, "another spare")
        await c.until(lambda: c.status("a").get("turns") == 1, "turns")

        def owner() -> str:
            claim = c.api.get(CLAIM, spare) or {}
            return str(claim["metadata"]["ownerReferences"][0]["kind"])

        await c.until(lambda: owner() == "ClaudeSession", "its claim is its own")
        assert c.status("a")["volumeClaimName"] == spare
        assert c.status("a")["claudeSessionID"]


async def test_without_spares_a_worker_is_started_and_its_volume_is_the_sessions() -> None:
    async with cluster(pool={"size": 1}) as c:
        assert await c.turn("a") == 1
        uid = c.session("a")["metadata"]["uid"]
        assert c.claims() == [f"{name('a')}-{uid[:8]}"]
        assert c.status("a")["phase"] == "Ready"
        [pod] = c.pods("a")
        assert c.status("a")["podName"] == pod


async def test_a_resumed_conversation_has_its_volume_and_its_turns() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a", "t1")
        [before] = c.claims()
        c.suspend("a")
        await c.phased("a", "Suspended")
        assert c.pods() == []
        assert c.status("a")["turns"] == 1
        assert "endpoint" not in c.status("a")
        await c.turn("a", "t2")
        assert c.worker("a").volume.ran == ["t1", "t2"]
        assert c.claims() == [before]


async def test_the_least_recently_used_makes_room() -> None:
    async with cluster(pool={"size": 2}) as c:
        for conversation in "ab":
            await c.turn(conversation)
        await c.turn("a")
        await c.turn("c")
        await c.phased("b", "Suspended")
        assert (c.phase("a"), c.phase("c")) == ("Ready", "Ready")
        assert len(c.claims()) == 3


async def test_while_all_are_busy_those_who_wait_see_their_place_and_go_in_order() -> None:
    async with cluster(pool={"size": 1}) as c:
        worker, turn = await c.held("a")
        tasks = []
        for place, conversation in enumerate("bc", start=1):
            tasks.append(c.request(conversation))
            await c.until(lambda s=conversation: c.phase(s) == "Queued", "in the line")  # type: ignore[misc]
            assert c.status(conversation)["message"].startswith(f"Number {place} in the line")
            assert c.reason(conversation) == "WaitingForRoom"
        await c.until(lambda: c.pool_status().get("queued") == 2, "the pool says so")
        assert c.pool_status()["busy"] == 1
        worker.release()
        await turn
        await tasks[0]
        await c.until(lambda: c.phase("c") != "Queued" or "Number 1 " in c.status("c")["message"], "moved up")
        await tasks[1]
        order = [w.volume.conversation for w in c.kubelet.every]
        assert order == ["a", "b", "c"]


async def test_an_idle_worker_goes_after_its_time_and_a_busy_one_does_not() -> None:
    async with cluster(pool={"size": 2, "idleTimeout": "300ms"}) as c:
        worker, turn = await c.held("a")
        await c.turn("b")
        await c.phased("b", "Suspended")
        assert c.phase("a") == "Ready"
        worker.release()
        await turn
        await c.phased("a", "Suspended")
        assert [w.drains for w in c.kubelet.every] == [1, 1]


async def test_a_worker_that_refuses_to_drain_keeps_its_turn_and_its_session_is_ready_again() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        worker = c.worker("a")
        # Between the decision and the drain a turn has come, which the operator has not been told of.
        worker.changed, told = (lambda: None), worker.changed
        worker.busy = 1
        c.suspend("a")
        await c.until(lambda: worker.drains, "asked")
        await c.until(lambda: c.phase("a") == "Ready", "Ready again")
        assert c.pods("a")
        worker.changed = told
        worker.set(busy=0)
        await c.phased("a", "Suspended")
        assert c.pods() == []


async def test_a_request_that_comes_while_the_worker_ends_gets_another_on_the_same_volume() -> None:
    async with cluster(pool={"size": 1}) as c:
        c.kubelet.stop_seconds = 0.3
        await c.turn("a", "t1")
        before = c.pods("a")
        c.suspend("a")
        await c.until(lambda: c.leaving(before[0]), "going")
        assert c.phase("a") == "Suspending"
        await c.turn("a", "t2")
        assert c.worker("a").volume.ran == ["t1", "t2"]
        assert c.pods("a") != before
        assert c.session("a")["spec"]["desiredState"] == "Running"


async def test_a_suspension_waits_for_the_turn_that_runs() -> None:
    async with cluster(pool={"size": 1}) as c:
        worker, turn = await c.held("a")
        suspending = asyncio.create_task(c.router.suspend(ConversationKey("default", "a")))
        await c.until(lambda: c.session("a")["spec"]["desiredState"] == "Suspended", "said")
        assert c.phase("a") == "Ready"
        worker.release()
        await turn
        assert await suspending
        assert c.phase("a") == "Suspended"


async def test_a_session_made_as_suspended_gets_a_status_and_no_worker() -> None:
    async with cluster(pool={"size": 1}) as c:
        spec = {"conversationID": "a", "tenant": "default", "poolRef": {"name": "default"}, "desiredState": "Suspended"}
        c.api.put(c.session_kind, {"metadata": {"name": name("a")}, "spec": spec})
        await c.phased("a", "Suspended")
        assert c.kubelet.every == []


async def test_a_deleted_session_leaves_nothing() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        assert await c.router.purge(ConversationKey("default", "a"))
        await c.until(lambda: not c.pods() and not c.claims(), "all gone")


async def test_a_session_that_is_deleted_while_it_starts_leaves_nothing() -> None:
    async with cluster(pool={"size": 1}) as c:
        c.kubelet.boot = 0.2
        task = c.request("a")
        await c.until(lambda: c.pods("a"), "its pod")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        c.delete_session("a")
        await c.until(lambda: not c.pods() and not c.claims(), "all gone")


@pytest.mark.parametrize("warm", [0, 1])
async def test_a_session_made_anew_under_its_name_gets_nothing_of_the_old(warm: int) -> None:
    async with cluster(pool={"size": 2, "warm": warm}) as c:
        c.kubelet.stop_seconds = 0.3
        await c.turn("a", "t1")
        await c.until(lambda: c.status("a").get("turns") == 1, "counted")
        old = c.worker("a")
        [pod] = c.pods("a")
        assert await c.router.purge(ConversationKey("default", "a"))
        await c.until(lambda: c.leaving(pod), "going")
        await c.turn("a", "t2")
        assert c.worker("a").volume.ran == ["t2"]
        assert old.volume.ran == ["t1"]
        await c.until(lambda: c.status("a").get("turns") == 1, "counted")
        assert c.status("a")["claudeSessionID"] == f"claude-{c.worker('a').volume.claim}"
        assert c.status("a")["restarts"] == 0
        await c.until(
            lambda: old.volume.claim not in [x["metadata"]["uid"] for x in c.api.all(CLAIM)], "old claim gone"
        )


async def test_a_spare_whose_pod_is_being_made_is_claimed_when_it_is() -> None:
    async with cluster(pool={"size": 1, "warm": 1}, begun=False) as c:
        gate = asyncio.Event()

        async def wait(method: str, path: str) -> None:
            if (method, path) == ("POST", POD):
                await gate.wait()

        c.api.gate = wait
        await c.until(c.claims, "the spare's claim")
        task = c.request("a")
        await c.until(lambda: c.phase("a"), "seen")
        gate.set()
        await task
        assert len(c.kubelet.every) == 1
