"""A copy of all objects of a kind in a namespace, kept true by LIST and WATCH, whatever happens to either.

    reflector = Reflector(api, SESSIONS, namespace, indexes={"pool": lambda s: [s.pool]})
    task = asyncio.create_task(reflector.run())
    await reflector.wait_synced()
    session = await reflector.wait_for(name, lambda s: s is not None and s.status.phase == "Ready", deadline=…)

What holds at any time:
- After a LIST the copy is what the LIST said: objects that vanished while nobody watched are reported as deleted, and
  one that was deleted and made again under its name as deleted and added.
- While the API server is away, the copy stays as it was and can be read; `last_event` says how old it may be.
- A watch that says nothing for SILENCE_SECONDS is given up. The server ends each one sooner than that, so a live one
  is never silent for that long.
- Listeners and waiters are called when the copy has changed. They are doorbells: look at the copy, do not add up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, ValuesView
from typing import Generic, TypeVar

import aiohttp
import msgspec

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.cache import Cache, Index, Listener, Predicate
from claude_crds.errors import ApiError, Gone, Status, api_error
from claude_crds.resources import Resource
from claude_crds.views import Object

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

PAGE = 500
"""Objects in a page of the LIST: bounds what one answer weighs here and there."""
WATCH_SECONDS = 60
"""After this the server ends a watch; the next one goes on where it ended, at the cost of one request."""
SILENCE_SECONDS = 75.0
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 2.0
"""Few clients watch, so a server that comes back can bear them soon."""
STEADY_SECONDS = 1.0
"""A watch that lasted this long, or said something, was a good one: failures before it are forgotten."""

_AFTER_BUG_SECONDS = 1.0
_SAME_AGAIN = (0, 429, 502, 503)
"""Failures that say nothing about the watch's resource version: not reached, or overloaded. After any other, LIST. (A
server restored from a backup refuses versions from its future with 504, for ever.)"""

_FAILURES = (ApiError, AccessError, aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError)


def backoff(failures: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, and somewhere between half of that and all of it."""
    longest: float = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + 0.5 * draw())


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Identity(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Bare(msgspec.Struct):
    """What is left of an object that cannot be read, and all that a bookmark has."""

    metadata: _Identity


_EVENT = msgspec.json.Decoder(_Event)


class Reflector(Generic[T]):
    """See the module. With `resync`, all is listed anew when a watch ends that many seconds after the last LIST.

    `last_event` and `last_sync` are on `clock`: when the server was last heard, and last listed.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource[T],
        namespace: str,
        *,
        label_selector: str = "",
        field_selector: str = "",
        indexes: Mapping[str, Index[T]] | None = None,
        page: int = PAGE,
        resync: float = math.inf,
        silence: float = SILENCE_SECONDS,
        backoff: Callable[[int], float] = backoff,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._resource = resource
        self._namespace = namespace
        self._selector = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._page = page
        self._resync = resync
        self._silence = silence
        self._backoff = backoff
        self._sleep = sleep
        self._clock = clock
        self._cache = Cache[T](indexes or {})
        self._relist = True
        self._taken = 0
        self._synced = asyncio.Event()
        self.last_event = clock()
        self.last_sync: float | None = None
        self.problem = ""
        """Why the server is not being followed at this moment; empty while it is."""

    @property
    def synced(self) -> bool:
        """Whether there was a first LIST; it stays so."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    def get(self, name: str) -> T | None:
        return self._cache.get(name)

    def items(self) -> ValuesView[T]:
        """All objects. A live view: copy it before anything is awaited."""
        return self._cache.items()

    def by(self, index: str, key: str) -> ValuesView[T]:
        """The objects under a key of an index; costs nothing for the others. A live view, too."""
        return self._cache.by(index, key)

    def listen(self, listener: Listener[T]) -> None:
        """Have it called at every change from now on, with (change, old, new)."""
        self._cache.listen(listener)

    def learn(self, written: T) -> None:
        """Take in the answer to a write of our own before the watch brings it; see `claude_crds.cache`."""
        self._cache.learn(written)

    async def wait_for(self, name: str, predicate: Predicate[T], *, deadline: float) -> T | None:
        """The object (None: that there is none) once the predicate is true of it; all who wait wake at once.

        `deadline` is on the event loop's clock; raises TimeoutError past it.
        """
        return await self._cache.wait_for(name, predicate, deadline)

    async def run(self) -> None:
        """Follow the server until cancelled."""
        failures = expired = 0
        while True:
            error, good = await self._round()
            if good:
                failures = expired = 0
            if error is None and good:
                continue
            if isinstance(error, Gone):
                # The server is there, and has only forgotten where we were. Again and again would be a loop of LISTs.
                expired += 1
                if expired == 1:
                    continue
            failures += 1
            await self._pause(failures, error)

    async def keep_running(self) -> None:
        """The same, and again if a bug ended it: the copy must not stay as it is for ever, unnoticed."""
        while True:
            try:
                await self.run()
            except Exception:
                log.exception("a reflector failed")
            await self._sleep(_AFTER_BUG_SECONDS)

    async def _round(self) -> tuple[Exception | None, bool]:
        """A LIST if need be, then a watch to its end: what ended it, and whether it was a good one."""
        try:
            if self._relist or self._clock() - (self.last_sync or 0.0) > self._resync:
                await self._list()
        except _FAILURES as failure:
            return failure, False
        error: Exception | None = None
        began, taken = self._clock(), self._taken
        try:
            await self._watch()
        except _FAILURES as failure:
            error = failure
            self._relist = not _goes_on(failure)
        return error, self._taken > taken or self._clock() - began >= STEADY_SECONDS

    async def _pause(self, failures: int, error: Exception | None) -> None:
        delay = self._backoff(failures)
        reason = str(error) or type(error).__name__ if error else "the watch ended at once"
        self.problem = f"{self._resource.plural} are not being followed: {reason}"
        log.log(logging.WARNING if failures > 1 else logging.INFO, "%s; again in %.1f s", self.problem, delay)
        await self._sleep(delay)

    async def _list(self) -> None:
        token, limit = "", self._page
        objects: list[T] = []
        while True:
            query = {**self._selector, "limit": str(limit or ""), "continue": token}
            try:
                page = await self._api.list_raw(self._resource, self._namespace, query)
            except Gone:
                if not token:
                    raise
                # It took longer than the server remembers: once more, in one piece.
                token, limit, objects = "", 0, []
                continue
            self.last_event = self._clock()
            objects += (o for o in map(self._read, page.items) if o is not None)
            token = page.metadata.continue_
            if not token:
                break
        self._relist = False
        self.last_sync = self._clock()
        self._cache.replace(objects, page.metadata.resource_version)
        self._synced.set()

    async def _watch(self) -> None:
        query = {
            **self._selector,
            "resourceVersion": self._cache.position,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async with self._api.watch(self._resource, self._namespace, query, silence=self._silence) as stream:
            self.problem = ""
            self.last_event = self._clock()
            rest = b""
            async for chunk in stream.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(_EVENT.decode(line))
                    self._taken += 1
                self.last_event = self._clock()
            self.last_event = self._clock()

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            raise api_error(msgspec.json.decode(event.object, type=Status), f"watching {self._resource.plural}")
        if event.type == "BOOKMARK":
            self._cache.position = msgspec.json.decode(event.object, type=_Bare).metadata.resource_version
            return
        read = self._read(event.object)
        if read is None:
            bare = msgspec.json.decode(event.object, type=_Bare).metadata
            self._cache.leave_out(bare.name, bare.resource_version)
        elif event.type == "DELETED":
            self._cache.remove(read)
        else:
            self._cache.apply(read)

    def _read(self, raw: msgspec.Raw) -> T | None:
        """One object that cannot be read must not cost us all the others."""
        try:
            return self._resource.decoder.decode(raw)
        except msgspec.ValidationError as error:
            log.error("one of the %s is left out, for it cannot be read: %s", self._resource.plural, error)
            return None


def _goes_on(failure: Exception) -> bool:
    """Whether the watch may be taken up where it ended."""
    if isinstance(failure, ApiError):
        return failure.status.code in _SAME_AGAIN
    return not isinstance(failure, msgspec.MsgspecError)
