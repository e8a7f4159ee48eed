"""Usage, asked of a gateway that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from aiohttp import web

from claude_crds.tokens import usage_token
from claude_router import usage as module
from claude_router.gateway.internal import Internal
from claude_router.gateway.ledger import Begun, Ended, Ledger
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.scan import Counted
from claude_router.usage import Usage
from claude_worker.openai.errors import ApiError
from router.fakes import PATIENCE
from router.harness import _Server

pytestmark = pytest.mark.asyncio
KEY = b"k" * 32


class Gateway:
    """Answers `status`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.status = 200
        self.body = b'{"data":[]}'
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return web.Response(status=self.status, body=self.body, content_type="application/json")


@contextlib.asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    app = web.Application()
    app.router.add_get("/usage", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server
    made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/"  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        await runner.cleanup()


async def refused(usage: Usage) -> tuple[int, str | None]:
    with pytest.raises(ApiError) as error:
        await usage.ask("day", team="red")
    return error.value.status, error.value.code


async def test_what_is_asked_and_what_comes_back() -> None:
    async with gateway() as gate:
        usage = Usage(gate.url, usage_token(KEY))
        assert (
            await usage.ask("model", team="red & co", since="2030-01-01", until="2030-02-01T00:00:00+01:00")
            == gate.body
        )
        assert await usage.ask("team") == gate.body
    first, second = gate.asked
    assert dict(first.query) == {
        "by": "model", "team": "red & co", "since": "2030-01-01", "until": "2030-02-01T00:00:00+01:00",
    }  # fmt: skip
    assert dict(second.query) == {"by": "team"}
    assert first.headers["authorization"] == f"Bearer {usage_token(KEY)}"


async def test_the_token_follows_from_the_key_and_is_no_workers() -> None:
    assert usage_token(KEY) == usage_token(KEY) != usage_token(b"x" * 32)
    assert len(usage_token(KEY)) == 43


async def test_without_a_gateway() -> None:
    assert await refused(Usage()) == (404, "usage_not_metered")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, (400, "invalid_parameter")),
        (401, (503, "usage_unavailable")),
        (302, (503, "usage_unavailable")),
        (500, (503, "usage_unavailable")),
    ],
)
async def test_a_gateway_that_refuses(status: int, expected: tuple[int, str]) -> None:
    async with gateway() as gate:
        gate.status, gate.body = status, b"a secret detail"
        assert await refused(Usage(gate.url, "t")) == expected


async def test_a_gateway_that_is_not_there_or_says_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway() as gate:
        monkeypatch.setattr(module, "_ANSWER_MAX", 5)
        assert await refused(Usage(gate.url, "t")) == (503, "usage_unavailable")
    assert await refused(Usage(gate.url, "t")) == (503, "usage_unavailable")


async def test_the_real_gateway_tells_each_team_its_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    await asyncio.to_thread(ledger.open)
    try:
        for number, team in enumerate(("red", "blue", "red")):
            ledger.begin(Begun(str(number), 86_400.0 * number, team, f"conv-{team}", "default", "m"))
            ledger.end(Ended(str(number), 86_400.0 * number + 1, "m", "", 200, Counted(1), 1.5, ""))
        assert await asyncio.to_thread(ledger.flush)
        made = Internal(tmp_path / "ledger", GatewayMetrics(), usage_token(KEY), problem=lambda: "", waiting=lambda: 0)
        server = _Server(uvicorn.Config(made.app(), port=0, log_config=None, access_log=False, lifespan="off"))
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(PATIENCE):
            await server.listening.wait()
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

        async def costs(**asked: Any) -> dict[str, float]:
            rows = json.loads(await Usage(url, usage_token(KEY)).ask(**asked))["data"]
            return {row["key"]: row["cost_usd"] for row in rows}

        assert await costs(by="team") == {"red": 3.0, "blue": 1.5}
        assert await costs(by="team", team="red") == {"red": 3.0}
        assert await costs(by="session", team="blue") == {"conv-blue": 1.5}
        assert await costs(by="day", team="red", since="1970-01-02") == {"1970-01-03": 1.5}
        assert await costs(by="day", until="1970-01-02T00:00:00Z") == {"1970-01-01": 1.5}
        assert await refused(Usage(url, "another-token")) == (503, "usage_unavailable")
        with pytest.raises(ApiError) as wrong:
            await Usage(url, usage_token(KEY)).ask("day", since="yesterday")
        assert wrong.value.status == 400
        server.should_exit = True
        await serving
    finally:
        await asyncio.to_thread(ledger.close)
