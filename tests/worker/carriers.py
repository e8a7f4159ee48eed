"""A worker's file endpoints alone: real files and HTTP, a conversation that only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_worker.files import file_routes
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import ApiError
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status

SESSION = "00000000-0000-4000-8000-000000000002"


class FakeConversation:
    """The two methods that files need of a conversation."""

    def __init__(self, status: Status) -> None:
        self.status = status
        self.slot = asyncio.Lock()
        self.imported: list[str] = []

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        async with self.slot:
            yield

    async def import_volume(self, read: Callable[[], Awaitable[None]], at: str = "") -> None:
        if not self.status.unbound:
            raise ApiError(409, "This conversation has begun already.", code="conversation_exists")
        async with self.slot:
            await read()
        self.status.bind()
        self.imported.append(at)


class Carrier:
    """A volume with its endpoints."""

    def __init__(self, volume: Path, **settings: object) -> None:
        self.settings = WorkerSettings(volume_dir=str(volume), **settings)  # type: ignore[arg-type]
        for folder in (self.settings.volume, self.settings.workspace, self.settings.config_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(volume)
        self.status = Status(self.ledger.state, "")
        self.conversation = FakeConversation(self.status)
        routes = [
            Route(path, endpoint, methods=[method])
            for method, path, endpoint in file_routes(self.settings, self.status, self.conversation)
        ]
        self.app = Starlette(routes=routes, exception_handlers={ApiError: _on_api_error})
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://worker")

    @property
    def workspace(self) -> Path:
        return self.settings.workspace

    def begin(self) -> None:
        """Make it the volume of a conversation."""
        state = self.ledger.state
        state.claude_session_id, state.turns, state.totals.cost_usd = SESSION, 7, 1.5
        self.ledger.append([["e", "nobody", "done", ""]])
        self.ledger.write([], self.ledger.encoded_state())
        self.status.bind()

    def remember(self, path: str, text: str) -> Path:
        """A file of the CLI's."""
        file = self.settings.config_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


async def _on_api_error(request: Request, error: Exception) -> Response:
    api = cast(ApiError, error)
    return Response(api.body(), api.status, headers=api.headers, media_type="application/json")


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and error code."""
    return answer.status_code, answer.json()["error"]["code"]


def tree_of(folder: Path) -> dict[str, object]:
    """Everything in it: text of files, targets of links, None for folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found
