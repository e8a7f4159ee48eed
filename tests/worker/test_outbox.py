"""Bytes between the CLI's callbacks and a client."""

from __future__ import annotations

import asyncio

from claude_worker.openai.chunks import KEEPALIVE
from claude_worker.openai.errors import ApiError
from claude_worker.outbox import Outbox


async def test_what_was_put_between_two_takes_leaves_together() -> None:
    outbox = Outbox()
    outbox.put(b"a")
    outbox.put(b"b")
    assert await outbox.take() == b"ab"
    outbox.put(b"c")
    outbox.close(ApiError(500, "x"))
    outbox.put(b"dropped")
    assert await outbox.take() == b"c"
    assert await outbox.take() == b""
    assert outbox.error is not None


async def test_only_the_first_end_counts() -> None:
    outbox = Outbox()
    outbox.close(None)
    outbox.close(ApiError(500, "late"))
    assert outbox.error is None


async def test_silence_is_broken_by_comments() -> None:
    outbox = Outbox(keepalive=0.01)
    assert await asyncio.wait_for(outbox.take(), 5) == KEEPALIVE
    outbox.close()


async def test_a_slow_client_is_noticed_and_its_source_told_when_it_catches_up() -> None:
    outbox = Outbox()
    told = []
    outbox.on_emptied = lambda: told.append(True)
    outbox.put(b"x" * (5 * 1024 * 1024))
    assert outbox.full
    await outbox.take()
    assert not outbox.full
    assert told == [True]
