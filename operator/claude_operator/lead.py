"""The operator's life: wait for the lease, look after the pools while it is held, hand over at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path

from claude_crds.access import loader
from claude_crds.api import Api
from claude_crds.tokens import read_key
from claude_operator.health import Health
from claude_operator.lease import Leadership
from claude_operator.metrics import OperatorMetrics
from claude_operator.settings import OperatorSettings
from claude_operator.term import Term

log = logging.getLogger(__name__)


class Operator:
    """`begin` inside the event loop, `end` before it ends."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._metrics = OperatorMetrics()
        self._api: Api | None = None
        self._health: Health | None = None
        self._leadership: Leadership | None = None
        self._leading: asyncio.Task[None] | None = None
        self._term: Term | None = None

    async def begin(self) -> None:
        """Raises KeyFileError, AccessError, OSError: without key, API server's address or port there is no use."""
        settings = self._settings
        key = await asyncio.to_thread(read_key, Path(settings.worker_key_file))
        self._api = Api(loader())
        namespace = settings.namespace or await self._api.namespace()
        name = settings.pod_name or socket.gethostname()
        self._leadership = Leadership(self._api, namespace, settings.lease_name, name, duration=settings.lease)
        self._health = Health(self._leadership, self._metrics)
        await self._health.begin(settings.http_host, settings.http_port)
        self._leading = asyncio.create_task(self._lead(self._api, namespace, key, self._leadership, self._health))

    async def end(self) -> None:
        """Stop acting, then let the next one lead."""
        if self._leading is not None:
            self._leading.cancel()
            with suppress(asyncio.CancelledError):
                await self._leading
        if self._term is not None:
            await self._term.end()
        if self._leadership is not None:
            await self._leadership.resign()
        if self._health is not None:
            await self._health.end()
        if self._api is not None:
            await self._api.close()

    def ring(self, pool: str) -> None:
        """Something of this pool may have changed."""
        if self._term is not None:
            self._term.ring(pool)

    async def _lead(self, api: Api, namespace: str, key: bytes, leadership: Leadership, health: Health) -> None:
        while True:
            await leadership.gain()
            term = self._term = Term(api, namespace, self._settings, key, self._metrics, leadership.check)
            health.term = term
            beginning = asyncio.create_task(term.begin())
            try:
                await leadership.lost()
            finally:
                beginning.cancel()
                with suppress(asyncio.CancelledError):
                    await beginning
            health.term = self._term = None
            await term.end()
