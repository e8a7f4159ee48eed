"""Where requests go, and how they are asked there: the Messages API itself, or a cloud with a form of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import aiohttp
from yarl import URL

from claude_router.gateway import headers
from claude_router.gateway.routes import Route

Data = bytes | AsyncIterator[bytes]


class Asked(NamedTuple):
    """A worker's request without its body, whose `length` in bytes may not be known. Names of headers in lower case."""

    route: Route
    query: bytes
    headers: list[tuple[bytes, bytes]]
    length: int | None


class Content(Protocol):
    """An answer's body. After a `readany` that brought the last bytes, `at_eof` is true."""

    async def readany(self) -> bytes:
        """What has come, at least a byte but at the end. Raises aiohttp.ClientError, OSError and TimeoutError."""
        ...

    def at_eof(self) -> bool:
        """Whether there is no more."""
        ...


class Reply(Protocol):
    """The model's answer, as the Messages API gives it."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """In the order in which they came."""
        ...

    @property
    def content(self) -> Content:
        """The body."""
        ...

    def close(self) -> None:
        """Cut it off, if it has not ended."""
        ...


class Upstream(Protocol):
    """One account. Whatever prints it, prints no secret."""

    async def ask(self, http: aiohttp.ClientSession, asked: Asked, data: Data) -> Reply:
        """Send it once. Raises ApiError for what cannot be sent there, else as aiohttp does."""
        ...

    def at(self, url: str) -> Upstream:
        """The same account at another address."""
        ...


@dataclass(frozen=True, slots=True)
class Api:
    """The Messages API: nothing is translated. `header` opens it."""

    url: str
    header: str = field(repr=False)
    value: str = field(repr=False)

    async def ask(self, http: aiohttp.ClientSession, asked: Asked, data: Data) -> Reply:
        """See Upstream. The body goes on as it comes."""
        url = URL(self.url + asked.route.path, encoded=True)
        if asked.query:
            url = URL(f"{url}?{asked.query.decode('latin-1')}", encoded=True)
        sent = headers.forward(asked.headers, (self.header, self.value), asked.length)
        return await http.request(asked.route.method, url, data=data or None, headers=sent, allow_redirects=False)

    def at(self, url: str) -> Api:
        """See Upstream."""
        return replace(self, url=url)
