"""An operator is killed right before, or right after, any of its writes: the next one goes on, and nothing is lost.

A scenario is run once to count the operator's writes. Then it is run again for each write, twice: the process dies
just before the write is done, and just after it was done but before it was answered. Another operator follows at once.
Simulated: the API server, the kubelet and the workers. A write that is still on its way when its sender dies, and is
done after the next operator has listed, is not tried here.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from claude_crds.resources import SESSION_LABEL
from claude_operator.sweep import sweep
from claude_router.sessions import ConversationKey
from operator_sim.api import CLAIM, POD, SESSION
from operator_sim.cluster import Cluster, cluster, hurry

AT_ONCE = 6
LATER_SECONDS = 10_000.0


async def scenario(c: Cluster) -> None:
    """Claim, start, evict, resume, purge and come again: three conversations on two workers."""
    await c.until(c.spares, "a spare")
    await c.turn("a", "a1")
    await c.turn("b", "b1")
    await c.turn("c", "c1")
    await c.turn("a", "a2")
    await c.router.purge(ConversationKey("default", "b"))
    await c.turn("b", "b2")


def owned(c: Cluster, conversation: str) -> bool:
    claim = c.api.get(CLAIM, c.status(conversation)["volumeClaimName"]) or {}
    uids = [o["uid"] for o in claim["metadata"]["ownerReferences"]]
    return bool(uids == [c.session(conversation)["metadata"]["uid"]])


async def aftermath(c: Cluster) -> None:
    """At rest, everything is somebody's: what each volume has seen is the conversation, whole and once."""
    term = c.operator.term
    await c.until(lambda: all(c.phase(s) in ("Ready", "Suspended") for s in "abc"), "at rest")
    for conversation, turns in (("a", ["a1", "a2"]), ("b", ["b2"]), ("c", ["c1"])):
        claim = c.api.get(CLAIM, c.status(conversation)["volumeClaimName"])
        assert claim is not None, conversation
        assert c.kubelet.volumes[claim["metadata"]["uid"]].ran == turns
        await c.until(lambda of=conversation: owned(c, of), "its claim goes with it")  # type: ignore[misc]
    await sweep(term.world, term._acts, time.time() + LATER_SECONDS)

    def tidy() -> bool:
        sessions = {s["metadata"]["name"] for s in c.api.all(SESSION)}
        bound = [p["metadata"]["labels"].get(SESSION_LABEL) for p in c.api.all(POD)]
        spares = {p["metadata"]["name"] for p in c.api.all(POD) if SESSION_LABEL not in p["metadata"]["labels"]}
        held = {s.get("status", {}).get("volumeClaimName") for s in c.api.all(SESSION)}
        return {b for b in bound if b} <= sessions and set(c.claims()) == held | spares and len(bound) <= 2

    await c.until(tidy, "no pod and no claim is nobody's")
    c.check()


async def killed(write: int, when: str) -> str:
    """One run; what went wrong, or nothing."""
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        deaths: list[asyncio.Task[None]] = []

        async def die() -> None:
            await c.operator.kill()
            await c.another_operator()

        def at_write(number: int, moment: str) -> None:
            if (number, moment) == (write, when) and not deaths:
                c.api.dead.add(c.operator.agent)
                deaths.append(asyncio.create_task(die()))

        c.api.at_write = at_write
        try:
            async with asyncio.timeout(100):
                await scenario(c)
                await asyncio.gather(*deaths)
                await aftermath(c)
        except Exception as error:
            await asyncio.gather(*deaths)
            return f"killed {when} write {write}: {error!r}\n{c.describe()}"
    return ""


@pytest.mark.timeout(600)
async def test_killed_at_any_write(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, pool_interval=2.0)
    async with cluster(pool={"size": 2, "warm": 1}) as c:
        await scenario(c)
        await aftermath(c)
        count = c.api.writes
    assert count > 20
    room = asyncio.Semaphore(AT_ONCE)

    async def run(write: int, when: str) -> str:
        async with room:
            return await killed(write, when)

    runs = [run(write, when) for write in range(1, count + 1) for when in ("before", "after")]
    assert [found for found in await asyncio.gather(*runs) if found] == []
