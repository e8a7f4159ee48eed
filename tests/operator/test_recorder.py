"""Events: written behind, in order; nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from claude_crds.api import Api
from claude_crds.events import Step
from claude_crds.resources import SESSIONS
from claude_operator import recorder
from claude_operator.recorder import Recorder
from operator_sim.api import SimApi
from operator_sim.made import session


@contextlib.asynccontextmanager
async def recording() -> AsyncIterator[tuple[SimApi, Recorder]]:
    server = SimApi()
    async with server, Api(server.loader) as api:
        made = Recorder(api, "ns")
        task = asyncio.create_task(made.run())
        try:
            yield server, made
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def reasons(server: SimApi) -> list[str]:
    return [event["reason"] for event in server.events]


async def test_events_are_about_their_object_and_in_order() -> None:
    async with recording() as (server, made):
        made.tell(SESSIONS, session("s"), Step.CLAIMED, "one")
        made.tell(SESSIONS, session("s"), Step.FAILED, "two", warning=True)
        await made.flush(10)
        first, second = server.events
        assert first["involvedObject"]["name"] == "s"
        assert first["involvedObject"]["kind"] == "ClaudeSession"
        assert (first["reason"], first["type"], first["message"]) == ("Claimed", "Normal", "one")
        assert (second["reason"], second["type"]) == ("Failed", "Warning")


async def test_the_same_warning_is_told_once_and_a_step_each_time() -> None:
    async with recording() as (server, made):
        for _ in range(3):
            made.tell(SESSIONS, session("s"), Step.FAILED, "the same", warning=True)
            made.tell(SESSIONS, session("s"), Step.READY, "the same")
        made.tell(SESSIONS, session("s"), Step.FAILED, "another", warning=True)
        made.tell(SESSIONS, session("t", uid="other"), Step.FAILED, "the same", warning=True)
        await made.flush(10)
        assert sorted(reasons(server)) == ["Failed"] * 3 + ["Ready"] * 3


async def test_one_that_cannot_be_written_does_not_hold_up_the_others() -> None:
    async with recording() as (server, made):
        await server.stop()
        made.tell(SESSIONS, session("s"), Step.CLAIMED, "lost")
        await made.flush(10)
        assert made.dropped == 1
        await server.start()
        made.tell(SESSIONS, session("s"), Step.READY, "written")
        await made.flush(10)
        assert reasons(server) == ["Ready"]


async def test_more_than_it_can_hold_are_dropped() -> None:
    server = SimApi()
    async with server, Api(server.loader) as api:
        made = Recorder(api, "ns")
        for number in range(recorder._MOST_WAITING + 5):
            made.tell(SESSIONS, session("s"), Step.READY, str(number))
        assert made.dropped == 5
        await made.flush(0.01)  # nobody writes, and it does not wait for ever


@pytest.mark.parametrize("count", [3 * recorder._MOST_WAITING])
async def test_what_it_remembers_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(recorder, "_REPEAT_SECONDS", 0.0)
    server = SimApi()
    async with server, Api(server.loader) as api:
        made = Recorder(api, "ns")
        for number in range(count):
            made.tell(SESSIONS, session("s"), Step.FAILED, str(number), warning=True)
        assert len(made._told) <= recorder._MOST_WAITING + 1
