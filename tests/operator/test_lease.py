"""One leads: who may take the Lease, handing over, and a leader that cannot reach the API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from claude_crds.api import Api
from claude_crds.views import Metadata
from claude_operator.lease import ACT_PART, LEASES, Leadership, Lease, LeaseSpec, NotLeading, Sight, may_take
from operator_sim.api import SimApi

KIND = LEASES.path("ns")
DURATION = 15.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease(holder: str, version: str = "5") -> Lease:
    return Lease(metadata=Metadata(name="l", resource_version=version), spec=LeaseSpec(holder_identity=holder))


@pytest.mark.parametrize(
    ("found", "sight", "may"),
    [
        (None, None, True),
        (lease(""), None, True),
        (lease("me"), None, True),
        (lease("other"), None, False),
        (lease("other"), Sight("5", 85.0), True),
        (lease("other"), Sight("5", 85.1), False),
        (lease("other"), Sight("4", 0.0), False),
    ],
)
def test_who_may_take_it(found: Lease | None, sight: Sight | None, may: bool) -> None:
    assert may_take(found, "me", sight, 100.0, DURATION) is may


@contextlib.asynccontextmanager
async def replicas(*names: str, duration: float = DURATION) -> AsyncIterator[tuple[SimApi, Clock, list[Leadership]]]:
    """Operators that want to lead, each with a connection of its own; they share a clock that the test turns."""
    server, clock = SimApi(), Clock()
    async with server, contextlib.AsyncExitStack() as stack:
        made = []
        for name in names:
            api = await stack.enter_async_context(Api(server.loader, user_agent=name))
            made.append(Leadership(api, "ns", "l", name, duration=duration, clock=clock))
        yield server, clock, made


def spec(server: SimApi) -> dict[str, object]:
    found: dict[str, object] = (server.get(KIND, "l") or {})["spec"]
    return found


async def test_of_two_that_come_at_once_one_leads() -> None:
    async with replicas("a", "b") as (server, _, [a, b]):
        assert sorted(await asyncio.gather(a._try(), b._try())) == [False, True]
        assert [a.leading, b.leading].count(True) == 1
        leader = "a" if a.leading else "b"
        assert spec(server)["holderIdentity"] == leader
        assert spec(server)["leaseDurationSeconds"] == 15
        with pytest.raises(NotLeading):
            (b if a.leading else a).check()


async def test_a_leader_that_resigns_hands_over_at_once() -> None:
    async with replicas("a", "b") as (server, _, [a, b]):
        await a.gain()
        assert not await b._try()
        await a.resign()
        assert not a.leading
        assert await b._try()
        assert spec(server)["leaseTransitions"] == 2
        await a.resign()  # of what is not its own it gives nothing back
        assert spec(server)["holderIdentity"] == "b"


async def test_a_leader_that_renews_is_not_taken_over_however_long_it_leads() -> None:
    async with replicas("a", "b") as (_, clock, [a, b]):
        await a.gain()
        for _ in range(20):
            assert not await b._try()
            clock.now += 5.0
            assert await a._try()
            a.check()


async def test_one_that_is_cut_off_stops_before_another_begins() -> None:
    async with replicas("a", "b") as (server, clock, [a, b]):
        assert await a._try()
        assert not await b._try()
        server.dead.add("a")
        led = []
        for _ in range(20):
            clock.now += 1.0
            assert not await a._try()
            assert a.problem
            if await b._try():
                break
            led.append(a.leading)
        assert b.leading
        assert not a.leading
        with pytest.raises(NotLeading):
            a.check()
        # It acts on for two thirds of the duration, and there is a pause before the next one does.
        assert led == [True] * 9 + [False] * 5


async def test_one_that_comes_back_late_finds_that_another_leads() -> None:
    async with replicas("a", "b") as (server, clock, [a, b]):
        await a.gain()
        await b._try()
        server.dead.add("a")
        clock.now += DURATION
        assert await b._try()
        server.dead.clear()
        assert not await a._try()
        assert not a.leading
        assert a.problem == ""


async def test_a_renewal_counts_from_before_it_was_sent() -> None:
    async with replicas("a") as (server, clock, [a]):

        async def slow(method: str, path: str) -> None:
            clock.now += 3.0

        server.gate = slow
        assert await a._try()
        clock.now = 1000.0 + DURATION * ACT_PART - 0.001
        assert a.leading
        clock.now = 1000.0 + DURATION * ACT_PART
        assert not a.leading


async def test_one_that_was_started_again_under_its_name_goes_on_at_once() -> None:
    async with replicas("a", "a") as (server, _, [a, again]):
        await a.gain()
        await again.gain()
        assert spec(server)["leaseTransitions"] == 1


async def test_gain_and_lost_in_real_time() -> None:
    server = SimApi()
    async with server, Api(server.loader, user_agent="a") as one, Api(server.loader, user_agent="b") as two:
        a = Leadership(one, "ns", "l", "a", duration=0.3)
        b = Leadership(two, "ns", "l", "b", duration=0.3)
        async with asyncio.timeout(30):
            await a.gain()
            lost, gained = asyncio.create_task(a.lost()), asyncio.create_task(b.gain())
            server.dead.add("a")
            await lost
            await gained
        assert (a.leading, b.leading) == (False, True)
