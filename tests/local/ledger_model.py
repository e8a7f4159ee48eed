"""The scripted model with a ledger of its own: what it has told of each request's usage, whoever listened."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from claude_router.demo.app import create_app
from claude_router.serving import Server, listen
from local.harness import eventually

COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass
class Told:
    """One request: the headers that it came with, and the usage that was told last. `whole`: up to the end."""

    headers: dict[str, str]
    message: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    whole: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Its COUNTS."""
        return tuple(self.usage.get(name) or 0 for name in COUNTS)


@dataclass
class LedgerModel:
    """A running model."""

    app: ASGIApp
    told: list[Told] = field(default_factory=list)
    url: str = ""

    def sums(self) -> tuple[int, ...]:
        """The COUNTS of all requests that were answered to their end."""
        return tuple(map(sum, zip(*(told.counts for told in self.told if told.whole), strict=True)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/messages":
            await self.app(scope, receive, send)
            return
        told = Told({name.decode(): value.decode() for name, value in scope["headers"]})
        self.told.append(told)
        body = bytearray()

        async def watched(message: Message) -> None:
            body.extend(message.get("body", b""))
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                told.whole = True

        try:
            await self.app(scope, receive, watched)
        finally:
            told.message, told.usage = _read(bytes(body))


def _read(body: bytes) -> tuple[str, dict[str, int]]:
    """The message's id, and the usage that was told last."""
    found: dict[str, int] = {}
    name = ""
    lines = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")] or [body]
    for line in lines:
        event: dict[str, Any] = json.loads(line) if line.strip() else {}
        message = event if event.get("type") == "message" else event.get("message", {})
        name = message.get("id", name)
        found |= event.get("usage") or message.get("usage") or {}
    return name, found


@contextmanager
def ledger_model() -> Iterator[LedgerModel]:
    """It runs in a thread of this process, so that its ledger is at hand."""
    model = LedgerModel(create_app())
    server = Server(uvicorn.Config(model, log_config=None, access_log=False, lifespan="off"))
    with listen("127.0.0.1", 0) as sock:
        model.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield model
        finally:
            server.should_exit = server.force_exit = True
            thread.join(30)
