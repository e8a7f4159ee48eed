"""`python -m bench.relay_server PORT URL`: the router's own application, its sessions all leased at one upstream.

It wants the keys in API_KEYS.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Sequence

from bench.load import on_loop
from claude_crds.settings import load
from claude_router.app import create_app
from claude_router.logs import configure
from claude_router.serving import listen, server_of
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

    def crowded(self, key: ConversationKey) -> bool:
        return False

    def count(self, tenant: str, also: Collection[str] = ()) -> int:
        return len(also)

    async def list(self, tenant: str | None, *, limit: int, after: str = "") -> Sequence[SessionView]:
        return []

    async def get(self, key: ConversationKey) -> SessionView | None:
        return None

    async def suspend(self, key: ConversationKey) -> bool:
        return False

    async def purge(self, key: ConversationKey) -> bool:
        return False

    def note_tip(self, key: ConversationKey, tip: str) -> None:
        return

    def find_by_tip(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        return None

    async def stats(self) -> PoolStats:
        return PoolStats(size=1, live=1, busy=0, warm=0, suspended=0, queued=0)


async def _serve(port: int, upstream: str) -> None:
    # All as `claude_router.local.serve` has it, the log of requests included.
    settings = load(RouterSettings, {"PORT": str(port), "API_KEYS": os.environ["API_KEYS"]})
    configure(settings.log_format)
    app = create_app(settings, OneUpstream(upstream), version="bench")
    server = server_of(app, grace=1)
    serving = asyncio.create_task(server.serve([listen(settings.host, settings.port)]))
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = server.force_exit = True
    await serving


if __name__ == "__main__":
    on_loop(_serve(int(sys.argv[1]), sys.argv[2]))
