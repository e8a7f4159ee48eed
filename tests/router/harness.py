"""The router under test, served by a real uvicorn on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from claude_router.app import create_app
from claude_router.settings import RouterSettings
from router.fakes import DONE, PATIENCE, FakeSessions

CHAT = "/v1/chat/completions"


def body(**more: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": "claude-code", "messages": [{"role": "user", "content": "hello"}], **more}


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Endpoint:
    """A running router."""

    app: FastAPI
    sessions: FakeSessions
    port: int
    client: httpx.AsyncClient
    server: uvicorn.Server

    async def chat(self, content: dict[str, Any] | bytes | None = None, **headers: str) -> httpx.Response:
        """A chat request, its answer read to the end."""
        data = content if isinstance(content, bytes) else json.dumps(body() if content is None else content).encode()
        return await self.client.post(CHAT, content=data, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def connect(self, content: dict[str, Any], headers: str = "") -> tuple[RawAnswer, asyncio.StreamWriter]:
        """A chat request on a connection of its own, of which the test sees every byte."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        data = json.dumps(content).encode()
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(data)}\r\n\r\n".encode() + data)
        return RawAnswer(reader), writer


class RawAnswer:
    """An HTTP/1.1 answer, read chunk by chunk as it was framed."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            line, *rest = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        return int(line.split(" ")[1]), {n.lower(): v.strip() for n, _, v in (h.partition(":") for h in rest if h)}

    async def chunk(self) -> bytes:
        """One chunk; b"" is the proper end."""
        async with asyncio.timeout(PATIENCE):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def rest(self) -> list[bytes]:
        """Every chunk until the proper end."""
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks


@contextlib.asynccontextmanager
async def endpoint(
    *leases: str | Exception, sessions: FakeSessions | None = None, app: FastAPI | None = None, **settings: Any
) -> AsyncIterator[Endpoint]:
    """A running router whose sessions give these leases."""
    sessions = sessions or FakeSessions()
    sessions.leases.extend(leases)
    app = app or create_app(RouterSettings(**settings), sessions, version="1.2.3")
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="on", http="httptools")
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(PATIENCE):
            await server.listening.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as client:
            yield Endpoint(app, sessions, port, client, server)
    finally:
        server.should_exit = True
        await task


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object of an answer, checked for its shape."""
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert set(found) == {"error"}
    error: dict[str, Any] = found["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


def error_frames(data: bytes) -> dict[str, Any]:
    """The error object at the end of a stream, followed by `[DONE]`."""
    assert data.endswith(b"\n\n" + DONE)
    last = data.removesuffix(DONE).rstrip(b"\n").rsplit(b"\n\n", 1)[-1]
    error: dict[str, Any] = json.loads(last.removeprefix(b"data: "))["error"]
    return error
