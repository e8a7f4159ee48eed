"""The client as the server sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from claude_router.answer import Answer
from claude_router.client import ClientLeft, ClientWatch, Keepalives, read_body
from claude_worker.openai.errors import ApiError
from router.fakes import PATIENCE

pytestmark = pytest.mark.asyncio


class Client:
    """ASGI's `receive`: these pieces of a body, then silence until `leave`."""

    def __init__(self, pieces: Iterable[bytes] = (), *, complete: bool = True) -> None:
        parts = list(pieces)
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not complete or i + 1 < len(parts)}
            for i, part in enumerate(parts)
        ]
        self.leave = asyncio.Event()

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        await self.leave.wait()
        return {"type": "http.disconnect"}


@pytest.mark.parametrize("pieces", [[b""], [b"abc"], [b"ab", b"", b"c"], [b"0123456789"], [b"01234", b"56789"]])
async def test_a_body_is_put_together(pieces: list[bytes]) -> None:
    assert await read_body(Client(pieces).receive, {}, 10) == b"".join(pieces)


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        ([], {b"content-length": b"11"}),
        ([b"x" * 11], {}),
        ([b"x" * 6, b"x" * 5], {}),
        ([b"x" * 11, b"x"], {}),
        ([b"x" * 11], {b"content-length": b"3"}),
    ],
)
async def test_a_body_over_the_limit(pieces: list[bytes], headers: dict[bytes, bytes]) -> None:
    with pytest.raises(ApiError) as refused:
        await read_body(Client(pieces).receive, headers, 10)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


async def test_reading_stops_at_the_limit() -> None:
    client = Client([b"x" * 11] * 1000)
    with pytest.raises(ApiError):
        await read_body(client.receive, {}, 10)
    assert (await client.receive())["type"] == "http.request", "the rest was not read"


async def test_a_length_that_is_no_number() -> None:
    with pytest.raises(ApiError) as refused:
        await read_body(Client([b"x"]).receive, {b"content-length": b"ten"}, 10)
    assert (refused.value.status, refused.value.code) == (400, "invalid_content_length")


@pytest.mark.parametrize("pieces", [[], [b"ab"]])
async def test_a_client_that_leaves_before_its_request_is_complete(pieces: list[bytes]) -> None:
    client = Client(pieces, complete=False)
    client.leave.set()
    with pytest.raises(ClientLeft):
        await read_body(client.receive, {}, 10)


async def test_the_watch_ends_its_block_when_the_client_leaves() -> None:
    client = Client()
    waiting = asyncio.Event()
    asyncio.get_running_loop().call_soon(client.leave.set)
    async with asyncio.timeout(PATIENCE):
        async with ClientWatch(client.receive) as watch:
            await waiting.wait()
    assert watch.left
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "the cancellation was the watch's own, and is taken back"


async def test_the_watch_leaves_a_block_alone_that_ends_by_itself() -> None:
    client = Client()
    before = asyncio.all_tasks()
    async with ClientWatch(client.receive) as watch:
        await asyncio.sleep(0)
        client.leave.set()  # as uvicorn does when the answer is complete
    await asyncio.sleep(0)
    assert not watch.left
    assert asyncio.all_tasks() == before, "nobody watches any more"


async def test_the_watch_does_not_outlive_its_block() -> None:
    before = asyncio.all_tasks()
    async with ClientWatch(Client().receive):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_the_watch_lets_errors_through() -> None:
    with pytest.raises(ApiError):
        async with ClientWatch(Client().receive):
            raise ApiError(500, "x")


async def test_the_watch_lets_another_cancellation_through() -> None:
    client = Client()
    inside = asyncio.Event()

    async def watched() -> None:
        async with ClientWatch(client.receive):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(watched())
    await inside.wait()
    task.cancel()
    client.leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


class Wire:
    """Counts what goes out; `slow` holds each message back until it is set."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.more = asyncio.Condition()
        self.slow = asyncio.Event()
        self.slow.set()
        self.entered = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.entered.set()
        await self.slow.wait()
        async with self.more:
            self.sent.append(message)
            self.more.notify_all()

    async def count(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE), self.more:
            await self.more.wait_for(lambda: len(self.sent) >= number)


async def test_keepalives_come_until_they_are_stopped() -> None:
    wire, counted = Wire(), [0]

    def count() -> None:
        counted[0] += 1

    keepalives = Keepalives(Answer(wire.send), 0.001, count)
    await wire.count(4)
    await keepalives.stop()
    sent = len(wire.sent)
    assert counted[0] == sent - 1, "one of the messages is the head"
    assert {m["body"] for m in wire.sent[1:]} == {b": keepalive\n\n"}
    await asyncio.sleep(0.01)
    assert len(wire.sent) == sent


async def test_keepalives_that_are_stopped_in_time_send_nothing() -> None:
    wire = Wire()
    keepalives = Keepalives(Answer(wire.send), PATIENCE, lambda: None)
    await keepalives.stop()
    assert wire.sent == []


async def test_a_keepalive_on_its_way_is_not_cut_off() -> None:
    wire = Wire()
    wire.slow.clear()
    keepalives = Keepalives(Answer(wire.send), 0.001, lambda: None)
    await asyncio.wait_for(wire.entered.wait(), PATIENCE)
    stopping = asyncio.create_task(keepalives.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    wire.slow.set()
    await stopping
    assert [m["type"] for m in wire.sent] == ["http.response.start", "http.response.body"]
