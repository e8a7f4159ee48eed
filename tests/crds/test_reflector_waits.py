"""Who waits for an object, and who listens to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from claude_crds.api import Api
from claude_crds.reflector import Reflector
from claude_crds.resources import SESSIONS
from claude_crds.views import ClaudeSession
from crds.fake_api import PATIENCE, FakeApi
from crds.harness import KIND, followed, session


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as made:
        yield made


async def test_all_who_wait_for_an_object_wake_at_once(fake: FakeApi) -> None:
    loop = asyncio.get_running_loop()
    async with followed(fake) as f:
        r = f.reflector

        def running(s: ClaudeSession | None) -> bool:
            return s is not None and s.spec.desired_state == "Running"

        deadline = loop.time() + PATIENCE
        waits = [asyncio.create_task(r.wait_for("a", running, deadline=deadline)) for _ in range(20)]
        other = asyncio.create_task(r.wait_for("b", running, deadline=deadline))
        await f.same()
        await fake.watched()
        fake.put(KIND, session("a", desiredState="Suspended"))
        await f.same()
        assert not any(w.done() for w in waits)
        fake.put(KIND, session("a", desiredState="Running"))
        found = await asyncio.gather(*waits)
        assert {s and s.name for s in found} == {"a"}
        assert not other.done()
        assert (await r.wait_for("a", running, deadline=0.0)) is found[0], "at once, if it is true already"
        gone = asyncio.create_task(r.wait_for("a", lambda s: s is None, deadline=deadline))
        await asyncio.sleep(0)
        fake.remove(KIND, "a")
        assert await gone is None
        other.cancel()


async def test_a_wait_ends_at_its_deadline_and_leaves_nothing(fake: FakeApi) -> None:
    async with followed(fake) as f:
        await f.same()
        now = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await f.reflector.wait_for("a", lambda s: s is not None, deadline=now + 0.01)
        with pytest.raises(ZeroDivisionError):
            await f.reflector.wait_for("a", lambda _: bool(1 / 0), deadline=now + PATIENCE)
        assert f.reflector._cache._waiters == {}


async def test_before_the_first_list_nothing_is_said_to_be_absent(fake: FakeApi) -> None:
    fake.put(KIND, session("a"))
    async with followed(fake) as f:
        assert not f.reflector.synced
        assert f.reflector.last_sync is None
        deadline = asyncio.get_running_loop().time() + PATIENCE
        absent = asyncio.create_task(f.reflector.wait_for("b", lambda s: s is None, deadline=deadline))
        found = await f.reflector.wait_for("a", lambda s: s is None or bool(s.name), deadline=deadline)
        assert found
        assert await absent is None
        assert f.reflector.last_sync is not None


async def test_a_listener_that_fails_harms_nobody(fake: FakeApi) -> None:
    async with followed(fake) as f:
        f.reflector.listen(lambda *_: 1 / 0)  # type: ignore[arg-type]
        f.reflector.listen(f_heard := _Heard())
        await f.same()
        await fake.watched()
        fake.put(KIND, session("a"))
        await f.same()
        assert f_heard.names == ["a"]


async def test_a_bug_does_not_keep_it_from_following(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paused = asyncio.Event()

    async def sleep(delay: float) -> None:
        monkeypatch.undo()
        paused.set()

    fake.put(KIND, session("a"))
    async with Api(fake.loader) as api:
        reflector = Reflector(api, SESSIONS, "ns", sleep=sleep)
        monkeypatch.setattr(Reflector, "_round", lambda _: 1 / 0)
        task = asyncio.create_task(reflector.keep_running())
        async with asyncio.timeout(PATIENCE):
            await paused.wait()
            await reflector.wait_synced()
        assert [s.name for s in reflector.items()] == ["a"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert "a reflector failed" in caplog.text


class _Heard:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, change: str, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        self.names.append((new or old).name)  # type: ignore[union-attr]
