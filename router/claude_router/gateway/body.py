"""A request's body on its way: passed on piece by piece, the last one only when the whole has been looked at.

Without its last piece a request is none, so nothing runs that would have been refused; and nothing waits for a body
that is still coming.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.types import Receive

from claude_router.client import ClientLeft
from claude_router.gateway import errors
from claude_worker.openai.errors import ApiError

PIECE_SECONDS = 60.0
"""A worker is near: one that says nothing for so long in the middle of a body has hung."""


class Body:
    """The body as it comes. `known_length` in bytes, None: chunked."""

    def __init__(self, receive: Receive, limit: int, known_length: int | None) -> None:
        self._receive = receive
        self._limit = limit
        self._more = True
        self.known_length = known_length
        self.failure: ApiError | ClientLeft | None = None
        self.size = 0

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return not self._more

    async def piece(self) -> bytes:
        """The next piece, b"" after the last one. Raises ApiError (408, 413) and ClientLeft."""
        while self._more:
            try:
                async with asyncio.timeout(PIECE_SECONDS):
                    message = await self._receive()
            except TimeoutError as error:
                raise errors.too_slow() from error
            if message["type"] == "http.disconnect":
                raise ClientLeft
            self._more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            self.size += len(piece)
            if self.size > self._limit:
                raise errors.too_large(self._limit)
            if piece:
                return piece
        return b""

    async def pieces(self, check: Callable[[bytes], None], first: bytes) -> AsyncIterator[bytes]:
        """All pieces; `first` has come already. `check` gets the whole before the last goes, and may raise ApiError.

        Who reads them may hide what is raised: `failure` keeps it.
        """
        whole = [first]
        try:
            while piece := await self.piece():
                yield whole[-1]
                whole.append(piece)
            check(b"".join(whole))
        except (ApiError, ClientLeft) as error:
            self.failure = error
            raise
        yield whole[-1]
