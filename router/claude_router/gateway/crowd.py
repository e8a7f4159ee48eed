"""What one worker may have in flight: what runs in it may be anybody's, and the gateway's memory is everybody's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from claude_router.gateway import errors

MOST_AT_A_TIME = 64
"""Claude Code with many subagents at once has some ten."""


class Crowd:
    """Counts requests, and the bytes of their bodies, by pod."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """`most` requests at a time of one pod; further ones are refused, too, once their bodies are over `most_bytes`.

        One alone is never refused, however large.
        """
        self._most = most
        self._most_bytes = most_bytes
        self._pods: dict[str, tuple[int, int]] = {}

    @contextmanager
    def entered(self, pod: str, size: int) -> Iterator[None]:
        """For as long as a request of this pod runs, with a body of so many bytes. Raises ApiError (429)."""
        count, held = self._pods.get(pod, (0, 0))
        if count >= self._most or (count and held + size > self._most_bytes):
            raise errors.crowded()
        self._pods[pod] = (count + 1, held + size)
        try:
            yield
        finally:
            count, held = self._pods.pop(pod)
            if count > 1:
                self._pods[pod] = (count - 1, held - size)
