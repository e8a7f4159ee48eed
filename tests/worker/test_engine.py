"""CLIs that do not come up, refuse, hang or die: what the worker makes of them."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from claude_worker.openai.errors import NOT_STARTED, ApiError
from worker.fake import Worker


async def test_a_conversation_whose_cli_never_comes_up_is_given_up(
    resumed: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CLI", "dies")
    for expected in ("bound", "bound", "failed"):
        error = await resumed.refusal("hello")
        assert (error.status, error.headers[NOT_STARTED]) == (503, "not-started")
        assert resumed.status.view()["phase"] == expected
    assert resumed.status.view()["error"] == "Claude Code ended with status 1: the last words"
    assert not resumed.status.ready


@pytest.mark.parametrize("mode", ["dies at initialize", "refuses initialize"])
async def test_however_its_boot_fails(resumed: Worker, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CLI", mode)
    for _ in range(3):
        await resumed.refusal("hello")
    assert resumed.status.view()["phase"] == "failed"


async def test_a_cli_that_cannot_be_executed_is_given_up_too(resumed: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CLI", "/nowhere/claude")
    for _ in range(3):
        assert (await resumed.refusal("hello")).status == 503
    assert "/nowhere/claude" in resumed.status.view()["error"]


async def test_one_good_boot_makes_up_for_the_bad_ones(resumed: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        monkeypatch.setenv("FAKE_CLI", "dies")
        await resumed.refusal("hello")
        await resumed.refusal("hello")
        monkeypatch.setenv("FAKE_CLI", "works")
        assert await resumed.ask("hello") == "echo: hello"
        process = resumed.conversation.engine.process
        assert process is not None
        await process.close()
    assert resumed.status.view()["phase"] == "bound"


async def test_a_cli_that_dies_in_a_turn_is_no_failed_boot(resumed: Worker) -> None:
    for _ in range(4):
        assert (await resumed.refusal("die")).code == "worker_cli_ended"
    assert await resumed.ask("hello") == "echo: hello"


async def test_a_first_turn_whose_cli_died_is_made_up_for_by_the_next(
    fresh: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CLI", "dies at initialize")
    await fresh.refusal("hello")
    assert fresh.status.view()["phase"] == "warm"
    monkeypatch.setenv("FAKE_CLI", "works")
    assert await fresh.ask("hello") == "echo: hello"
    assert fresh.status.view()["phase"] == "bound"


async def test_a_spare_whose_cli_dies_is_of_no_use(fresh: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CLI", "dies")
    await fresh.conversation.engine.boot()
    await fresh.until(phase="failed")


async def test_a_resume_that_dies_unasked_leaves_no_noise(resumed: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    monkeypatch.setenv("FAKE_CLI", "dies at initialize")
    await resumed.conversation.engine.boot()
    process = resumed.conversation.engine.process
    assert process is not None
    await process.wait()
    # The task that initialized ends an iteration after the process that it asked.
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert noise == []


async def test_an_answer_and_a_cancellation_at_the_same_time_are_a_cancellation(
    resumed: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CLI", "mute")
    await resumed.conversation.engine.boot()
    process = resumed.conversation.engine.process
    assert process is not None
    asking = asyncio.create_task(process.control(60, subtype="x"))
    await asyncio.sleep(0)
    _, answer = process._pending.values()
    answer.set_result({})
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("steps", range(5))
async def test_a_client_that_leaves_as_its_turn_ends_has_left(fresh: Worker, steps: int) -> None:
    """However far the news of the end has come."""
    asked = fresh.begin("hang")
    await asked.reader.outbox.take()
    asked.turn.abandon()
    for _ in range(steps):
        await asyncio.sleep(0)
    asked.leave()
    await fresh.until(busy=False)


# -- the credential ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused at once", "refused again and again", "forbidden"])
async def test_a_refused_key_is_told_until_a_turn_succeeds(fresh: Worker, how: str) -> None:
    assert fresh.status.view()["problem"] is None
    assert (await fresh.refusal(how)).status in (401, 403)
    assert fresh.status.view()["problem"] == "key_refused"
    assert (await fresh.refusal("overloaded")).status == 503
    assert fresh.status.view()["problem"] == "key_refused", "which says nothing about the key"
    await fresh.ask("hello")
    assert fresh.status.view()["problem"] is None


# -- busy and drained --------------------------------------------------------------------------------------------


async def test_it_is_busy_while_its_cli_is_set_up(resumed: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CLI", "mute")
    await resumed.conversation.engine.boot()
    asked = resumed.begin("hello")
    await resumed.until(busy=True, queued=0)
    asked.leave()
    process = resumed.conversation.engine.process
    assert process is not None
    process.kill()
    await resumed.until(busy=False)


async def test_a_drain_ends_the_wait_for_a_cli_that_does_not_come_up(
    resumed: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CLI", "mute")
    asked = resumed.begin("hello")
    await resumed.until(busy=True, queued=0)
    async with asyncio.timeout(4):
        await resumed.conversation.drain(force=True, grace=0.01)
    with pytest.raises(Exception, match="could not be started"):
        await asked.ended()
    assert resumed.status.view()["phase"] == "drained"


async def test_a_turn_that_is_being_set_up_still_runs_within_the_grace(fresh: Worker) -> None:
    await fresh.conversation.engine.boot()
    asked = fresh.begin("hello")
    await fresh.until(busy=True)
    async with asyncio.timeout(10):
        await fresh.conversation.drain(force=True, grace=60)
    await asked.ended()
    assert (fresh.status.view()["turns"], fresh.status.view()["phase"]) == (1, "drained")


async def test_a_turn_does_not_begin_once_the_grace_is_over(fresh: Worker) -> None:
    await fresh.conversation.engine.boot()
    asked = fresh.begin("hang")
    await fresh.until(busy=True)
    async with asyncio.timeout(10):
        await fresh.conversation.drain(force=True, grace=0)
    with pytest.raises(Exception, match=r"shutting down|could not be started"):
        await asked.ended()
    assert (fresh.status.view()["turns"], fresh.status.view()["phase"]) == (0, "drained")


async def test_a_turn_that_outlasts_the_grace_is_interrupted(fresh: Worker) -> None:
    asked = fresh.begin("hang")
    await asked.reader.outbox.take()
    await fresh.conversation.drain(force=True, grace=0.01)
    with pytest.raises(ApiError) as ended:
        await asked.ended()
    assert (ended.value.status, ended.value.code) == (503, "worker_stopped")
