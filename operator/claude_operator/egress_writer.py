"""Writes the ConfigMap that the pools' proxies follow, as the pools change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.errors import ApiError
from claude_crds.resources import Resource
from claude_crds.views import ClaudePool
from claude_operator.egress import lists
from claude_operator.lease import NotLeading
from claude_operator.settings import OperatorSettings
from claude_operator.world import World

log = logging.getLogger(__name__)

CONFIG_MAPS: Resource[dict[str, Any]] = Resource("v1", "ConfigMap", "configmaps", dict)
AFTER_ERROR_SECONDS = 30.0


class EgressWriter:
    """Follows the pools of `world`, once made, and writes the ConfigMap while it runs.

    `lead` raises when this replica may not write any more. What was written is written anew from time to time, since
    somebody else may have changed it.
    """

    def __init__(
        self, api: Api, namespace: str, world: World, lead: Callable[[], None], settings: OperatorSettings
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._world = world
        self._lead = lead
        self._settings = settings
        self._bell = asyncio.Event()
        world.pools.listen(self._changed)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._bell.clear()
            pause = self._settings.resync
            try:
                self._lead()
                data = lists(self._world.pools.items(), self._settings)
                await self._api.patch(CONFIG_MAPS, self._namespace, self._settings.egress_config_map, {"data": data})
            except (ApiError, AccessError, NotLeading) as error:
                log.warning("the proxies' lists of hosts are not written: %s", error)
                pause = min(AFTER_ERROR_SECONDS, pause)
            except Exception:
                # A bug of ours; workers must not want for an operator because of it.
                log.exception("the proxies' lists of hosts are not written")
                pause = min(AFTER_ERROR_SECONDS, pause)
            # Not `wait_for`: until Python 3.12 it loses a cancellation that comes together with the bell.
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._bell.wait()

    def _changed(self, _: str, old: ClaudePool | None, new: ClaudePool | None) -> None:
        if old is None or new is None or _made_from(old) != _made_from(new):
            self._bell.set()


def _made_from(pool: ClaudePool) -> tuple[object, ...]:
    return pool.leaving, pool.spec.egress, pool.spec.anthropic.base_url
