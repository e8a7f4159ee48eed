"""A reflector over the fake API server, and the wait until it says what the server says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from claude_crds.api import Api
from claude_crds.cache import Change
from claude_crds.reflector import Reflector
from claude_crds.resources import SESSIONS
from claude_crds.views import ClaudeSession
from crds.fake_api import PATIENCE, FakeApi, Json

KIND = SESSIONS.path("ns")


def session(name: str, **spec: Any) -> Json:
    """A ClaudeSession as a router would create it."""
    return {"metadata": {"name": name}, "spec": {"conversationID": name, **spec}}


def read(body: Json) -> ClaudeSession:
    """The view of an object that the fake has given."""
    return SESSIONS.decoder.decode(json.dumps(body))


@dataclass
class Followed:
    """A running reflector; what its listeners heard, and the state that follows from that alone."""

    fake: FakeApi
    api: Api
    reflector: Reflector[ClaudeSession]
    delays: list[float] = field(default_factory=list)
    heard: list[tuple[Change, str]] = field(default_factory=list)
    told: dict[str, ClaudeSession] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    """Changes that did not fit what was told before. Not raised on the spot: a listener's errors are caught."""
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def listen(self, change: Change, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        about = new or old
        assert about
        self.heard.append((change, about.name))
        fits = self.told.get(about.name) is old and (change == "added", change == "deleted") == (
            old is None,
            new is None,
        )
        if not fits:
            self.odd.append(f"{change} {about.name}")
        if new is None:
            self.told.pop(about.name, None)
        else:
            self.told[about.name] = new
        self.bell.set()

    def names(self) -> dict[str, str]:
        """Name → resource version of what the reflector has."""
        return {o.name: o.metadata.resource_version for o in self.reflector.items()}

    async def delayed(self, times: int) -> None:
        """Return when it has waited so often after a failure."""
        async with asyncio.timeout(PATIENCE):
            while len(self.delays) < times:
                self.bell.clear()
                await self.bell.wait()

    async def same(self) -> None:
        """Return when the reflector has what the server has. Fails past PATIENCE."""
        async with asyncio.timeout(PATIENCE):
            await self.reflector.wait_synced()
            while self.names() != self.fake.names(KIND):
                self.bell.clear()
                await self.bell.wait()
        assert self.odd == []
        assert {name: o.metadata.resource_version for name, o in self.told.items()} == self.names()


@contextlib.asynccontextmanager
async def followed(fake: FakeApi, **options: Any) -> AsyncIterator[Followed]:
    """A reflector that runs, and does not really wait between its attempts. It must not end by itself."""

    async def sleep(delay: float) -> None:
        made.delays.append(delay)
        made.bell.set()
        # Long enough for the server's side to move, when both are in one process.
        await asyncio.sleep(0.001)

    async with Api(fake.loader) as api:
        indexes = {"pool": lambda s: [s.pool]}
        reflector = Reflector(api, SESSIONS, "ns", **{"indexes": indexes, "sleep": sleep, **options})
        made = Followed(fake, api, reflector)
        reflector.listen(made.listen)
        task = asyncio.create_task(reflector.run())
        try:
            yield made
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
