"""The loop of whoever looks after a pool: look at everything, then sleep until a bell rings or time changes something.

Level-triggered: a bell only says that something may have changed, so a lost or doubled one does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

SHORTEST_SLEEP_SECONDS = 0.01
AFTER_ERROR_SECONDS = 1.0

log = logging.getLogger(__name__)


async def rounds(
    bell: asyncio.Event,
    clock: Callable[[], float],
    look: Callable[[float], float | None],
    fields: Mapping[str, str] | None = None,
) -> NoReturn:
    """Until cancelled. `look(now)` gives when to look again if nothing rings (on `clock`; None: never).

    A look that fails is logged, with the fields, and tried again after AFTER_ERROR_SECONDS.
    """
    while True:
        bell.clear()
        now = clock()
        try:
            wake_at = look(now)
        except Exception:
            log.exception("a round failed", extra={"fields": fields or {}})
            wake_at = now + AFTER_ERROR_SECONDS
        delay = None if wake_at is None else max(SHORTEST_SLEEP_SECONDS, wake_at - clock())
        # Not `wait_for`: until Python 3.12 it loses a cancellation that comes together with the bell.
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await bell.wait()
