"""An answer's form: what an error looks like before and after something has gone out."""

from __future__ import annotations

from typing import Any

import pytest

from claude_router.answer import Answer
from claude_worker.openai.errors import ApiError
from router.fakes import DONE, frame
from router.harness import error_frames

pytestmark = pytest.mark.asyncio

ERROR = ApiError(503, "no worker", code="pool_exhausted", retry_after=3)


class Wire:
    """What was sent, in ASGI's terms."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        assert not self.ended, "nothing goes out after the end"
        self.messages.append(message)

    @property
    def ended(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body") is False

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages[1:])


async def test_an_error_before_anything_is_an_http_error() -> None:
    wire = Wire()
    answer = Answer(wire.send)
    answer.headers = [(b"x-conversation-id", b"c")]
    await answer.fail(ERROR)
    assert wire.messages[0]["status"] == 503
    assert dict(wire.messages[0]["headers"]) == {
        b"content-type": b"application/json", b"retry-after": b"3", b"x-conversation-id": b"c",
        b"content-length": b"%d" % len(ERROR.body()),
    }  # fmt: skip
    assert (wire.body, wire.ended) == (ERROR.body(), True)
    assert (answer.status, answer.code) == (503, "pool_exhausted")


async def test_an_error_after_a_keepalive_is_a_frame() -> None:
    wire = Wire()
    answer = Answer(wire.send)
    await answer.keepalive()
    await answer.keepalive()
    await answer.fail(ERROR)
    assert wire.messages[0]["status"] == answer.status == 200
    assert wire.body == b": keepalive\n\n" * 2 + ERROR.frames()
    assert wire.ended


@pytest.mark.parametrize("sent", [[b"data: {"], [b"data: {", b"}\n"], [frame("a"), b"d"], [b"\n", b"x\n"]])
async def test_a_frame_that_broke_off_does_not_swallow_the_error(sent: list[bytes]) -> None:
    wire = Wire()
    answer = Answer(wire.send)
    await answer.begin(200, [])
    for piece in sent:
        await answer.chunk(piece)
    await answer.fail(ERROR)
    assert wire.body == b"".join(sent) + b"\n\n" + ERROR.frames()
    assert error_frames(wire.body)["code"] == "pool_exhausted"


@pytest.mark.parametrize(
    ("sent", "last", "complete"),
    [
        ([], DONE, True),
        ([DONE], b"", True),
        ([frame("a"), DONE[:3], DONE[3:9]], DONE[9:], True),
        ([frame("a") + DONE], b"", True),
        ([frame("a")], b"", False),
        ([DONE], frame("a"), False),
        ([DONE[:3]], DONE[4:], False),
        ([], b"", False),
    ],
)
async def test_it_knows_its_end(sent: list[bytes], last: bytes, complete: bool) -> None:
    answer = Answer(Wire().send)
    await answer.begin(200, [])
    for piece in sent:
        await answer.chunk(piece)
    assert answer.completes(last) is complete


@pytest.mark.parametrize(
    ("sent", "tip"),
    [
        ([frame("a"), b": tip " + b"a1" * 16 + b"\n\n" + DONE], "a1" * 16),
        ([frame("a") + b": tip ", b"a1" * 16, b"\n\n" + DONE], "a1" * 16),
        ([frame("a"), b": tip " + b"a1" * 16 + b"\n\n"], ""),
        ([frame("a: tip " + "a1" * 16 + "\n\n"), DONE], ""),
        ([frame("a"), b": tip " + b"x1" * 16 + b"\n\n" + DONE], ""),
        ([], ""),
    ],
)
async def test_it_knows_the_tip_of_a_whole_stream(sent: list[bytes], tip: str) -> None:
    answer = Answer(Wire().send)
    await answer.begin(200, [])
    for piece in sent:
        await answer.chunk(piece)
    assert answer.tip == tip
    answer.told_tip = "b2" * 16
    assert answer.tip == "b2" * 16


async def test_keepalives_are_not_the_first_byte() -> None:
    answer = Answer(Wire().send)
    await answer.keepalive()
    assert answer.first_byte == 0.0
    await answer.chunk(b"x")
    assert answer.first_byte > 0.0
