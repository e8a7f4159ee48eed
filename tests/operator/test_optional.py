"""A reflector of a kind that may not be there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from claude_crds.api import Api
from claude_crds.resources import TEAMS
from claude_crds.views import ClaudeTeam
from claude_operator.optional import ASK_AGAIN_SECONDS, OptionalReflector
from crds.fake_api import PATIENCE, FakeApi, status

KIND = TEAMS.path("ns")


def refused(code: int, reason: str) -> Callable[[web.Request], web.Response]:
    return lambda _: web.json_response(status(code, reason, f"claudeteams: {reason}"), status=code)


class Pauses:
    """Time between two requests passes when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._go = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._go.acquire()

    def over(self) -> None:
        self._go.release()


@asynccontextmanager
async def followed(fake: FakeApi, pauses: Pauses) -> AsyncIterator[OptionalReflector[ClaudeTeam]]:
    async with Api(fake.loader) as api:
        reflector = OptionalReflector(api, TEAMS, "ns", sleep=pauses.sleep, backoff=lambda _: 0.25)
        task = asyncio.create_task(reflector.run())
        try:
            yield reflector
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def synced(reflector: OptionalReflector[ClaudeTeam]) -> None:
    async with asyncio.timeout(PATIENCE):
        await reflector.wait_synced()


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (404, "NotFound")])
async def test_without_definition_or_right_there_are_none_and_it_is_well(
    code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with FakeApi() as fake:
        fake.put(KIND, {"metadata": {"name": "t"}, "spec": {}})
        fake.answers = [refused(code, reason), refused(code, reason)]
        pauses = Pauses()
        async with followed(fake, pauses) as reflector:
            await synced(reflector)
            assert (list(reflector.items()), reflector.problem) == ([], "")
            assert reflector.last_sync == reflector.last_event
            pauses.over()
            await fake.until(lambda: len(fake.requests) == 2)
            pauses.over()
            await fake.watched()
            assert [t.name for t in reflector.items()] == ["t"]
            assert pauses.slept == [ASK_AGAIN_SECONDS] * 2
            assert caplog.text.count(f"claudeteams: {reason}") == 1


async def test_teams_that_may_be_read_no_more_are_gone() -> None:
    async with FakeApi() as fake:
        fake.put(KIND, {"metadata": {"name": "t"}, "spec": {}})
        pauses, heard = Pauses(), []
        async with followed(fake, pauses) as reflector:
            reflector.listen(lambda change, *_: heard.append(change))
            await synced(reflector)
            await fake.watched()
            fake.answers = [refused(403, "Forbidden")]
            fake.end()
            pauses.over()
            async with asyncio.timeout(PATIENCE):
                await reflector.wait_for(
                    "t", lambda t: t is None, deadline=asyncio.get_running_loop().time() + PATIENCE
                )
            assert heard == ["added", "deleted"]
            assert reflector.problem == ""


async def test_other_failures_are_as_of_any_reflector() -> None:
    async with FakeApi() as fake:
        fake.put(KIND, {"metadata": {"name": "t"}, "spec": {}})
        fake.answers = [refused(503, "ServiceUnavailable")]
        pauses = Pauses()
        async with followed(fake, pauses) as reflector:
            await fake.until(lambda: bool(fake.requests))
            pauses.over()
            await synced(reflector)
            assert pauses.slept == [0.25]
            assert [t.name for t in reflector.items()] == ["t"]
