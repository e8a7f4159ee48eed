"""`python -m bench.relay_server URL`: the router's own application, its sessions all leased at one upstream."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.upstream import serve
from claude_router.app import create_app
from claude_router.sessions import ConversationKey, Lease, PoolStats, SessionView
from claude_router.settings import RouterSettings


class OneUpstream:
    """`Sessions` that always have a worker."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        return Lease(key.name, self._url, "token")

    def gone(self, key: ConversationKey, lease: Lease) -> None:
        return

    async def list(self, tenant: str, *, limit: int, after: str = "") -> Sequence[SessionView]:
        return []

    async def get(self, key: ConversationKey) -> SessionView | None:
        return None

    async def suspend(self, key: ConversationKey) -> bool:
        return False

    async def purge(self, key: ConversationKey) -> bool:
        return False

    async def stats(self) -> PoolStats:
        return PoolStats(size=1, live=1, busy=0, warm=0, suspended=0, queued=0)


if __name__ == "__main__":
    serve(create_app(RouterSettings(), OneUpstream(sys.argv[1]), version="bench"), lifespan="on")
