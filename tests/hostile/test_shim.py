"""300 hostile requests against a worker's shim, as `run.py` serves it, before a stand-in for the CLI."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvicorn

from claude_worker import bounds
from claude_worker.guard import Guard
from claude_worker.run import _Worker
from claude_worker.settings import WorkerSettings
from hostile.attacks import make
from hostile.laws import BOUNDS, PATIENCE, Laws, besiege, serving, wrong_either
from hostile.target import Target
from hostile.wire import Attack, request, send
from worker.fake import write_cli

SEED = 8
TOKEN = "token-of-this-worker"
MARK = "what-the-state-holds"
LARGEST = 1 << 20
_HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Shim:
    worker: _Worker
    server: uvicorn.Server
    port: int
    volume: Path


@pytest.fixture
async def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shim]:
    monkeypatch.setenv("CLAUDE_CLI", str(write_cli(tmp_path)))
    monkeypatch.setattr(bounds, "WITH_A_ROUTER", replace(BOUNDS, write_seconds=bounds.WITH_A_ROUTER.write_seconds))
    volume = tmp_path / "volume"
    settings = WorkerSettings(volume_dir=str(volume), max_body_bytes=LARGEST)
    for folder in (settings.volume, settings.workspace, settings.config_dir):
        folder.mkdir(parents=True)
    (volume / "secret").write_text(MARK)
    (settings.workspace / "leaf").symlink_to(volume / "secret")
    worker = _Worker(settings, Guard(hashlib.sha256(TOKEN.encode()).digest()))
    await worker._conversation.begin()
    try:
        server = worker._server()
        async with serving(server) as port:
            yield Shim(worker, server, port, volume)
    finally:
        await worker._conversation.drain(force=True, grace=0)


def target() -> Target:
    return Target(
        turns={
            b"/v1/chat/completions": {"model": "claude-code", "messages": _HELLO, "metadata": {"a": "b"}},
            b"/v1/responses": {"model": "claude-code", "input": _HELLO, "instructions": "x"},
            b"/v1/messages": {"model": "claude-code", "max_tokens": 10, "messages": _HELLO, "system": "x"},
        },
        reads=(b"/status", b"/transcript", b"/metrics", b"/files", b"/files?list=true", b"/healthz", b"/readyz"),
        named=(
            (b"GET", b"/files/{}"),
            (b"PUT", b"/files/{}"),
            (b"PUT", b"/files/a/{}"),
            (b"GET", b"/files?list=true&under={}"),
            (b"GET", b"/files?list=true&after={}"),
            (b"GET", b"/files?list=true&limit={}"),
            (b"PUT", b"/import?at={}"),
            (b"GET", b"/{}"),
            (b"POST", b"/drain?grace_ms=x{}"),
            (b"DELETE", b"/files/{}"),
            (b"GET", b"/status?watch={}"),
        ),
        auth=(b"Authorization", b"Bearer " + TOKEN.encode()),
        tokens=(
            b"",
            b"x",
            TOKEN.upper().encode(),
            TOKEN[:-1].encode(),
            TOKEN.encode() + b"x",
            hashlib.sha256(TOKEN.encode()).hexdigest().encode(),
        ),
        foreign=(
            b"leaf",
            b"leaf/x",
            b"../secret",
            b"..%2fsecret",
            b"%2e%2e/secret",
            b"../state.json",
            b"%2e%2e%2fclaude",
        ),
        more=(
            (b"X-Claude-Conversation", b"x"),
            (b"X-Claude-Request", b"x"),
            (b"Idempotency-Key", b"x"),
            (b"X-Stainless-Retry-Count", b"1"),
            (b"X-Claude-History", b"full"),
            (b"X-Claude-Client-Session", b"1"),
            (b"X-Claude-Model", b"x"),
            (b"X-Claude-Resent", b"1"),
        ),
        largest_body=LARGEST,
    )


async def test_three_hundred_hostile_requests(shim: Shim) -> None:
    attacks = make(target(), random.Random(SEED), 300)
    outcomes = await besiege(shim.server, shim.port, attacks, Laws((MARK, TOKEN), wrong_either), b"/healthz")
    statuses = {answer.status for outcome in outcomes for answer in outcome.answers}
    assert statuses >= {200, 400, 401, 404, 405, 408, 413, 431}
    assert (shim.volume / "secret").read_text() == MARK
    assert {path.name for path in shim.volume.iterdir()} <= {
        "claude",
        "workspace",
        "secret",
        "state.json",
        "setup.json",
        "ledger",
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"X-Stainless-Retry-Count", b"\xb2")], 200),
        ([(b"X-Stainless-Retry-Count", b"9" * 5_000)], 200),
        ([(b"X-Claude-Conversation", b"%ff")], 400),
    ],
)
async def test_headers_that_are_no_numbers_and_no_text(
    shim: Shim, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    good = target()
    sent = good.turn(random.Random(SEED), *headers)
    outcome = await send(shim.port, Attack("header", (sent,)), PATIENCE)
    assert [answer.status for answer in outcome.answers] == [status]


async def test_a_drain_with_a_wrong_time_drains_nothing(shim: Shim) -> None:
    for query in (b"grace_ms=soon", b"grace_ms=\xb2", b"grace_ms=-1", b"grace_ms=" + b"9" * 5_000, b"grace_ms="):
        sent = request(b"POST", b"/drain?force=true&" + query, [target().auth], b"")
        outcome = await send(shim.port, Attack("drain", (sent,)), PATIENCE)
        assert [answer.status for answer in outcome.answers] == [400]
        assert not shim.worker._status.ending
