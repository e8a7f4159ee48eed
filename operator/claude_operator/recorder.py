"""Events, written behind: they are for people, so nothing waits for them, and one that cannot be written is dropped."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.errors import ApiError
from claude_crds.events import event
from claude_crds.resources import EVENTS, Resource
from claude_crds.views import Object

log = logging.getLogger(__name__)

_MOST_WAITING = 1000
_BEHIND_SECONDS = 0.5
"""What an Event tells of has often just begun, and needs the API server and the processor more than the Event does."""
_REPEAT_SECONDS = 60.0
"""The same Event about the same object is written once in this time."""


class Recorder:
    """`tell` from anywhere on the loop; `run` writes."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MOST_WAITING)
        self._told: dict[tuple[str, str, str], float] = {}
        self._flushing = False
        self.dropped = 0

    def tell(self, kind: Resource[Any], about: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Have an Event written about that object."""
        now = time.monotonic()
        key = (about.metadata.uid, reason, message)
        if now - self._told.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS and warning:
            return
        if len(self._told) > _MOST_WAITING:
            self._told = {k: t for k, t in self._told.items() if now - t < _REPEAT_SECONDS}
        self._told[key] = now
        log.info("event", extra={"fields": {"kind": kind.kind, "name": about.name, "reason": reason}})
        try:
            self._waiting.put_nowait(event(kind, about, reason, message, now=time.time(), warning=warning))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Write them in order, until cancelled."""
        while True:
            body = await self._waiting.get()
            if not self._flushing:
                await asyncio.sleep(_BEHIND_SECONDS if self._waiting.empty() else 0)
            try:
                await self._api.create(EVENTS, self._namespace, body)
            except (ApiError, AccessError) as error:
                self.dropped += 1
                log.warning("an Event was not written: %s", error)
            self._waiting.task_done()

    async def flush(self, seconds: float) -> None:
        """Wait until all are written, but not for long."""
        self._flushing = True
        try:
            async with asyncio.timeout(seconds):
                await self._waiting.join()
        except TimeoutError:
            log.warning("%d Events were not written", self._waiting.qsize())
