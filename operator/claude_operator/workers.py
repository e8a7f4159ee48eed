"""Talking to workers: following their status, and asking them to drain. One pool of connections for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp
import msgspec

from claude_crds.tokens import worker_token
from claude_operator.slots import Word

log = logging.getLogger(__name__)

SILENCE_SECONDS = 45.0
"""A worker says something every 15 s; one that has missed that three times is not there."""
CONNECT_SECONDS = 2.0
DRAIN_SECONDS = 30.0
"""A drain waits for the CLI to close; it escalates to SIGKILL after 10 s."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
_FAST_SECONDS = 5.0
"""A worker listens 0.3 to 2 s after it has an address: during this time each try costs nothing but a refused packet."""

_OTHER_KEY = "it was started with another worker key; the next one gets the present one"

_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError)


class Busy(Exception):
    """The worker runs something, and does not drain."""


class Unreachable(Exception):
    """The worker could not be asked, or did not answer."""


class Workers:
    """To be made inside the event loop, and closed."""

    def __init__(self, key: bytes, namespace: str) -> None:
        self._key = key
        self._namespace = namespace
        self._decoder = msgspec.json.Decoder(Word)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
        )

    async def close(self) -> None:
        await self._http.close()

    def token(self, pod: str) -> str:
        """The bearer token of the worker in this pod."""
        return worker_token(self._key, self._namespace, pod)

    async def follow(self, pod: str, endpoint: str, hear: Callable[[Word | None], None]) -> None:
        """Tell every status of the worker, and None when it cannot be heard any more; for ever, until cancelled."""
        loop = asyncio.get_running_loop()
        began, pause, heard = loop.time(), _FIRST_PAUSE, False
        while True:
            try:
                async with self._http.get(f"{endpoint}/status?watch=true", headers=self._headers(pod)) as answer:
                    if answer.status == 401:
                        hear(Word("failed", error=_OTHER_KEY))
                    answer.raise_for_status()
                    async for line in answer.content:
                        hear(self._decoder.decode(line))
                        heard, pause = True, _FIRST_PAUSE
                        began = loop.time()
            except _FAILURES as error:
                log.debug("worker not heard", extra={"fields": {"pod": pod, "reason": str(error)}})
            if heard:
                heard = False
                hear(None)
            await asyncio.sleep(pause)
            pause = _FIRST_PAUSE if loop.time() - began < _FAST_SECONDS else min(_LONGEST_PAUSE, pause * 2)

    async def drain(self, pod: str, endpoint: str) -> None:
        """Have it close its CLI and refuse every turn from now on. Raises Busy, Unreachable."""
        timeout = aiohttp.ClientTimeout(total=DRAIN_SECONDS, sock_connect=CONNECT_SECONDS)
        try:
            async with self._http.post(f"{endpoint}/drain", headers=self._headers(pod), timeout=timeout) as answer:
                if answer.status == 409:
                    raise Busy
                answer.raise_for_status()
        except _FAILURES as error:
            raise Unreachable(str(error) or type(error).__name__) from error

    def _headers(self, pod: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(pod)}"}
