"""What is deleted by itself: sessions past their retention, volumes of spares that are gone; and what never is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from claude_crds.resources import POOL_LABEL, timestamp
from claude_operator.sweep import SPARE_SECONDS, past_retention, sweep
from operator_sim.api import CLAIM, SESSION
from operator_sim.cluster import Cluster, cluster, name
from operator_sim.made import pool, session

HOUR = 3600.0


def suspended(last: float, *, phase: str = "Suspended", **more: Any) -> Any:
    return session(status={"phase": phase, "lastActiveTime": timestamp(last)}, **more)


def old(made: Any, unix: float, retention: str = "1h") -> bool:
    return past_retention(pool(retention=retention), iter([made]), unix) == [made]


def test_a_suspended_session_that_nobody_has_used_for_the_retention_goes() -> None:
    assert old(suspended(0.0), HOUR + 1)
    assert not old(suspended(0.0), HOUR)
    assert not old(suspended(0.0), 1e9, retention="0")


@pytest.mark.parametrize("phase", ["", "Queued", "Starting", "Ready", "Suspending", "Failed"])
def test_only_suspended_ones_go(phase: str) -> None:
    assert not old(suspended(0.0, phase=phase), 1e9)


def test_any_sign_of_life_counts() -> None:
    assert not old(suspended(0.0, created=10.0), HOUR + 5)
    assert not old(suspended(0.0, lastRequestTime=timestamp(10.0)), HOUR + 5)
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(10.0)}
    recent = session(status={"phase": "Suspended", "conditions": [condition]})
    assert not old(recent, HOUR + 5)
    assert old(recent, HOUR + 11)


async def swept(c: Cluster, later: float) -> None:
    term = c.operator.term
    await sweep(term.world, term._acts, time.time() + later)


async def settled(c: Cluster, conversation: str) -> None:
    """Return when the operator's copy says that it is suspended."""
    sessions = c.operator.term.world.sessions
    deadline = c.loop_time() + 30
    await sessions.wait_for(
        name(conversation), lambda s: s is not None and s.status.phase == "Suspended", deadline=deadline
    )


async def knows(c: Cluster, claim: str) -> None:
    deadline = c.loop_time() + 30
    await c.operator.term.world.claims.wait_for(claim, lambda found: found is not None, deadline=deadline)


def claim(claim: str, labels: dict[str, str] | None = None, owner: Any = None) -> dict[str, Any]:
    meta = {"name": claim, "labels": {POOL_LABEL: "default"} if labels is None else labels}
    return {"metadata": {**meta, "ownerReferences": [owner] if owner else []}, "spec": {}}


async def test_a_session_past_its_retention_goes_with_its_volume_and_one_that_is_used_does_not() -> None:
    async with cluster(pool={"size": 2, "retention": "1h"}) as c:
        await c.turn("a")
        await c.turn("b")
        c.suspend("a")
        await settled(c, "a")
        await swept(c, HOUR / 2)
        assert c.session("a")
        await swept(c, HOUR + 10)
        await c.until(lambda: not c.session("a") and len(c.claims()) == 1, "gone")
        assert c.phase("b") == "Ready"


async def test_a_session_that_is_asked_for_meanwhile_is_not_deleted() -> None:
    async with cluster(pool={"size": 1, "retention": "1h"}) as c:
        await c.turn("a")
        c.suspend("a")
        await settled(c, "a")
        # The operator's copy does not know of it yet.
        spec = {**c.session("a")["spec"], "lastRequestTime": timestamp(time.time() + HOUR)}
        c.api.patch(SESSION, name("a"), spec=spec)
        await swept(c, HOUR + 10)
        assert c.session("a")


async def test_volumes_of_spares_that_are_gone_are_deleted_after_a_while() -> None:
    async with cluster(pool={"size": 1, "warm": 1}) as c:
        await c.until(c.spares, "a spare")
        [spare] = c.claims()
        c.api.put(CLAIM, claim("left-over"))
        await knows(c, "left-over")
        await swept(c, SPARE_SECONDS / 2)
        assert c.claims() == sorted(["left-over", spare])
        await swept(c, SPARE_SECONDS + 5)
        assert c.claims() == [spare]


async def test_whatever_may_be_somebodys_stays() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        c.suspend("a")
        await c.phased("a", "Suspended")
        [held] = c.claims()
        # A session's, by its status alone: a restore may have lost labels and owners.
        found = c.api.get(CLAIM, held) or {}
        bare = {"name": held, "uid": found["metadata"]["uid"], "labels": {POOL_LABEL: "default"}, "ownerReferences": []}
        c.api.patch(CLAIM, held, metadata={**found["metadata"], **bare})
        c.api.put(CLAIM, claim("of-a-user", labels={}))
        c.api.put(CLAIM, claim("by-spec"))
        spec = {"conversationID": "b", "poolRef": {"name": "default"}, "desiredState": "Suspended",
                "workspaceClaimName": "by-spec"}  # fmt: skip
        c.api.put(SESSION, {"metadata": {"name": name("b")}, "spec": spec})
        await c.phased("b", "Suspended")
        for kept in ("of-a-user", "by-spec"):
            await knows(c, kept)
        await swept(c, 10 * SPARE_SECONDS)
        assert c.claims() == sorted([held, "of-a-user", "by-spec"])
