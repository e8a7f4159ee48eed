"""What is written down of a request, however it ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from claude_router.gateway.teams import Policy
from router.fakes import PATIENCE, Exchange, streams
from router.gateway.harness import (
    JSON,
    TOKEN,
    body,
    delta,
    finish,
    gateway,
    request,
    start,
    until,
)

pytestmark = pytest.mark.asyncio

RESTRICTED = {"red": Policy(models=("sonnet",))}
ANSWER = start() + delta("hello") + finish()


async def test_a_request_becomes_one_row_of_what_the_api_said(tmp_path: Path) -> None:
    frames = start(cache_read_input_tokens=1000, cache_creation_input_tokens=30,
                   cache_creation={"ephemeral_1h_input_tokens": 10, "ephemeral_5m_input_tokens": 20})  # fmt: skip
    async with gateway(tmp_path, streams(frames, delta("x"), finish())) as running:
        await running.post()
        (row,) = running.rows()
        assert (row["team"], row["session"], row["pool"], row["model"], row["message"], row["status"]) == (
            "red", "conv-a", "default", "claude-opus-5", "msg_1", 200,
        )  # fmt: skip
        counts = [row[k] for k in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")]
        assert counts == [10, 40, 1000, 20, 10]
        assert row["cost"] == pytest.approx((10 * 5 + 40 * 25 + 1000 * 0.5 + 20 * 6.25 + 10 * 10) / 1e6)
        assert row["flags"] == ""
        assert running.spending.since("red", 0.0).cost_usd == pytest.approx(row["cost"])
        labels = {"team": "red", "model": "claude-opus-5"}
        assert running.counter("claude_gateway_cost_usd_total", **labels) == pytest.approx(row["cost"])


async def test_an_answer_in_one_piece_is_metered(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        message = {
            "id": "msg_2",
            "model": "claude-haiku-4-5-20251001",
            "usage": {"input_tokens": 3, "output_tokens": 4},
        }
        await exchange.whole(200, JSON, json.dumps(message).encode())

    async with gateway(tmp_path, script) as running:
        await running.post()
        (row,) = running.rows()
        assert (row["input"], row["output"], row["model"]) == (3, 4, "claude-haiku-4-5-20251001")
        assert row["cost"] == pytest.approx((3 * 1 + 4 * 5) / 1e6)


async def test_a_stream_that_the_model_cuts_is_cut_and_estimated(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(start() + delta("word " * 80))
        exchange.cut()

    async with gateway(tmp_path, script) as running:
        data = body()
        answer, _ = await running.connect(request(len(data)) + data.decode())
        assert (await answer.head())[0] == 200
        with pytest.raises(asyncio.IncompleteReadError):
            await answer.rest()
        (row,) = await running.ended()
        assert (row["input"], row["flags"]) == (10, "estimated")
        assert 60 <= row["output"] <= 180


async def test_a_worker_that_leaves_before_the_count_comes_pays_nevertheless(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(start() + delta("word " * 80))
        await exchange.left()
        left.set()

    async with gateway(tmp_path, script) as running:
        data = body()
        answer, writer = await running.connect(request(len(data)) + data.decode())
        await answer.head()
        await answer.chunk()
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await left.wait()  # the model is told at once
        (row,) = await running.ended()
        assert (row["flags"], row["output"] > 50) == ("estimated", True)


async def test_a_worker_that_leaves_before_the_answer_pays_for_its_prompt(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.left()

    async with gateway(tmp_path, script) as running:
        data = body(text="x" * 4000)
        _, writer = await running.connect(request(len(data)) + data.decode())
        await until(lambda: bool(running.model.received))
        writer.transport.abort()
        (row,) = await running.ended()
        assert (row["input"], row["flags"], row["status"]) == (len(data) // 4, "estimated", 0)


@pytest.mark.parametrize("text", ["", "word " * 1000])
async def test_a_worker_that_leaves_an_answer_without_its_count_pays_for_what_there_was(
    tmp_path: Path, text: str
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head(200, JSON)
        if text:
            await exchange.chunk(b'{"type": "message", "content": "' + text.encode())
        await exchange.left()

    async with gateway(tmp_path, script) as running:
        data = body(text="x" * 4000)
        answer, writer = await running.connect(request(len(data)) + data.decode())
        assert (await answer.head())[0] == 200
        if text:
            await answer.chunk()
        writer.transport.abort()
        (row,) = await running.ended()
        assert (row["input"], row["flags"], row["status"]) == (len(data) // 4, "estimated", 200)
        assert len(text) // 4 <= row["output"] <= len(text) // 4 + 10
        assert row["cost"] > 0


async def test_an_unreachable_model_costs_nothing_and_is_worth_another_try(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(ANSWER), url="http://127.0.0.1:9") as running:
        answer = await running.post()
        assert answer.status_code == 502
        assert answer.headers["x-should-retry"] == "true"
        assert "127.0.0.1" not in answer.text
        assert running.rows()[0]["cost"] == 0.0


async def test_an_answer_that_says_nothing_about_usage_is_flagged(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(b"event: ping\ndata: {}\n\n")) as running:
        await running.post()
        assert running.rows()[0]["flags"] == "unmetered"
        assert running.counter("claude_gateway_flagged_requests_total", flag="unmetered") == 1


async def test_a_model_without_a_price_is_the_dearest(tmp_path: Path) -> None:
    async with gateway(tmp_path, streams(start("brand-new") + finish())) as running:
        await running.post()
        (row,) = running.rows()
        assert row["flags"] == "unknown-model"
        assert row["cost"] == pytest.approx((10 * 15 + 40 * 75) / 1e6)


@pytest.mark.parametrize(
    "query", [b"a=\xff", b"a=%zz", b"%00", b"a#b", b"[", b"a=" + b"x" * 20_000, b"?", b"a=\xc3\xa9"]
)
async def test_an_odd_query_is_nobodys_failure(tmp_path: Path, query: bytes) -> None:
    async with gateway(tmp_path, streams(ANSWER)) as running:
        data = body()
        answer, writer = await running.connect("")
        writer.write(b"POST /v1/messages?" + query + b" HTTP/1.1\r\nhost: x\r\nx-api-key: " + TOKEN.encode())
        writer.write(b"\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
        assert (await answer.head())[0] in (200, 400)
