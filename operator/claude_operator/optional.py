"""A reflector of a kind that may not be there, or may not be read: then there are no objects of it."""

from __future__ import annotations

import logging
from typing import TypeVar

from claude_crds.errors import Forbidden, NotFound
from claude_crds.reflector import Reflector
from claude_crds.views import Object

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

ASK_AGAIN_SECONDS = 30.0


class OptionalReflector(Reflector[T]):
    """Without the definition (404) or the right to read it (403) it is synced, empty and well; it goes on asking."""

    _told = False

    async def _pause(self, failures: int, error: Exception | None) -> None:
        if not isinstance(error, Forbidden | NotFound):
            await super()._pause(failures, error)
            return
        if not self._told:
            self._told = True
            log.warning("there are none of these as far as this operator may know: %s", error)
        # The server was heard: what it says is that there is nothing.
        self.last_event = self.last_sync = self._clock()
        self.problem = ""
        self._cache.replace((), "")
        self._synced.set()
        await self._sleep(ASK_AGAIN_SECONDS)
