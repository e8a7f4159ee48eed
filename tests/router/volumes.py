"""Workers for what is no turn: the file endpoints of a real one, and one with a single answer to everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from router.fakes import PATIENCE, Exchange, Script
from router.harness import _Server
from worker.carriers import Carrier


@contextlib.asynccontextmanager
async def served(carrier: Carrier) -> AsyncIterator[str]:
    """The address of a worker's file endpoints."""
    server = _Server(uvicorn.Config(carrier.app, port=0, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE):
        await server.listening.wait()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def answers(status: int, content: Any, **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        await exchange.whole(status, {"content-type": "application/json", **headers}, data)

    return script
