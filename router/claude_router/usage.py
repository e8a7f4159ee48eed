"""`GET /v1/usage`: what was used, as the gateway has metered it; each team sees its own, an admin all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import aiohttp
from yarl import URL

from claude_router import team_errors as errors
from claude_worker.openai.errors import bad_request

log = logging.getLogger(__name__)

By = Literal["day", "team", "session", "model"]

_SECONDS = 10.0
_ANSWER_MAX = 16 * 1024 * 1024
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


class Usage:
    """Asks the gateway. Without an address there is none."""

    def __init__(self, url: str = "", token: str = "") -> None:
        """`url` is that of the gateway's internal listener."""
        self._url = URL(url.rstrip("/") + "/usage") if url else None
        self._token = token

    async def ask(self, by: By, *, team: str = "", since: str = "", until: str = "") -> bytes:
        """Its answer, JSON; of one team, or (empty) of all. Raises ApiError (400, 404, 503)."""
        if self._url is None:
            raise errors.no_gateway()
        asked = {"by": by, "team": team, "since": since, "until": until}
        query = {name: value for name, value in asked.items() if value}
        try:
            status, body = await self._get(self._url, query)
        except _FAILURES as error:
            log.warning("the gateway cannot be asked", extra={"fields": {"reason": f"{type(error).__name__}: {error}"}})
            raise errors.usage_unavailable() from error
        if status == 400:
            raise bad_request("'since' and 'until' must be times such as 2030-01-31 or 2030-01-31T12:00:00Z.",
                              code="invalid_parameter", param="since")  # fmt: skip
        if status != 200:
            log.warning("the gateway refuses to be asked", extra={"fields": {"status": status}})
            raise errors.usage_unavailable()
        return body

    async def _get(self, url: URL, query: Mapping[str, str]) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        headers = {"Authorization": f"Bearer {self._token}"}
        # One connection each time: asked for a few times a day, and nothing is to be closed at the end.
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http,
            http.get(url, params=query, headers=headers, allow_redirects=False) as response,
        ):
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > _ANSWER_MAX:
                    raise OSError("its answer is too large")
            return response.status, bytes(body)
