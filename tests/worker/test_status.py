"""What the worker says about itself, and to those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from claude_worker.frames import Frame
from claude_worker.ledger import State
from claude_worker.openai.errors import ApiError
from claude_worker.status import HEARTBEAT_SECONDS, Status

View = dict[str, Any]


async def following(lines: AsyncIterator[View]) -> View:
    """The next line, which has to come at once."""
    async with asyncio.timeout(5):
        return await anext(lines)


async def test_the_first_line_comes_at_once_and_one_with_each_change() -> None:
    status = Status(State(), "")
    lines = status.watch()
    assert (await following(lines))["phase"] == "warm"
    status.bind()
    assert (await following(lines))["phase"] == "bound"
    status.begin_turn()
    assert (await following(lines))["busy"]
    status.judge_credential(False)
    assert (await following(lines))["problem"] == "key_refused"
    status.end_turn()
    assert not (await following(lines))["busy"]
    status.fail("no more")
    view = await following(lines)
    assert (view["phase"], view["error"]) == ("failed", "no more")


async def test_silence_is_broken_so_that_a_dead_worker_is_noticed() -> None:
    assert HEARTBEAT_SECONDS <= 15
    status = Status(State(), "")
    lines = status.watch(heartbeat=0.001)
    assert [await following(lines) for _ in range(4)] == [status.view()] * 4


async def test_it_ends_with_the_drain() -> None:
    status = Status(State(), "")
    lines = status.watch()
    await following(lines)
    status.set_phase("drained")
    assert (await following(lines))["phase"] == "drained"
    with pytest.raises(StopAsyncIteration):
        await following(lines)


async def test_no_change_is_lost_between_two_lines() -> None:
    status = Status(State(), "")
    lines = status.watch(heartbeat=60)
    await following(lines)
    status.begin_turn()
    status.end_turn()
    status.judge_credential(False)
    assert (await following(lines))["problem"] == "key_refused"


@pytest.mark.parametrize(("accepted", "problem"), [(True, None), (False, "key_refused"), (None, "key_refused")])
async def test_only_a_success_clears_a_refused_key(accepted: bool | None, problem: str | None) -> None:
    status = Status(State(), "")
    status.judge_credential(False)
    status.judge_credential(accepted)
    assert status.view()["problem"] == problem


async def test_a_request_that_leaves_the_queue_is_told() -> None:
    status = Status(State(), "")
    lines = status.watch(heartbeat=60)

    async def leaves() -> None:
        async with status.waiting(1):
            assert (await following(lines))["busy"]
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await leaves()
    assert not (await following(lines))["busy"]


async def test_a_full_queue_refuses() -> None:
    status = Status(State(), "")
    status.begin_turn()
    with pytest.raises(ApiError, match="0 requests already wait"):
        async with status.waiting(0):
            pass


async def test_a_turn_that_is_prepared_hears_that_the_cli_is_idle_again() -> None:
    """It is counted as work itself, and must not wait for its own end."""
    status = Status(State(), "")
    with status.preparing():
        status.observe(Frame("system", "session_state_changed", state="running"))
        waiting = asyncio.create_task(status.until_cli_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
        status.observe(Frame("system", "session_state_changed", state="idle"))
        async with asyncio.timeout(5):
            await waiting
        assert status.busy
    assert not status.busy


async def test_nobody_waits_for_a_busy_cli_once_the_worker_ends() -> None:
    status = Status(State(), "")
    status.observe(Frame("system", "session_state_changed", state="running"))
    waiting = asyncio.create_task(status.until_cli_idle())
    await asyncio.sleep(0)
    assert not waiting.done()
    status.set_phase("draining")
    async with asyncio.timeout(5):
        await waiting


async def test_waiting_for_a_clients_tools_is_work_for_a_while_and_never_hinders_a_suspension() -> None:
    status = Status(State(claude_session_id="s"), "")
    assert (status.busy, status.parked) == (False, False)
    status.park(60)
    assert (status.busy, status.parked) == (True, True)
    with status.preparing():
        assert not status.parked, "its results have come"
    status.unpark()
    assert not status.busy
    status.park(0)
    async with asyncio.timeout(5):
        async for view in status.watch():
            if not view["busy"]:
                break
    assert status.parked
