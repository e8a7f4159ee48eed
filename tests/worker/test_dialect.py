"""What all APIs have in common."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker.dialect import CHAT, DIALECTS, LAST, MESSAGES, RESPONSES, Dialect, is_whole, tip_in
from claude_worker.events import Begin, Event, Text
from worker.dialects import CALLS, HEAD, LOST, TALK, TIP

BODIES: dict[str, dict[str, Any]] = {
    CHAT.path: {"messages": [{"role": "user", "content": "x"}]},
    RESPONSES.path: {"input": "x"},
    MESSAGES.path: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
@pytest.mark.parametrize("events", [TALK, CALLS])
def test_a_relay_knows_the_end_and_the_tip_by_the_last_hundred_bytes(dialect: Dialect, events: list[Event]) -> None:
    request = dialect.parse(json.dumps({**BODIES[dialect.path], "stream": True}).encode())
    writer = dialect.writer(HEAD, request)
    written = b""
    for event in events:
        assert not is_whole(written[-LAST:], dialect.ends)
        written += writer.feed(event)
    last = written[-LAST:]
    assert is_whole(last, dialect.ends)
    assert tip_in(last) == TIP
    for ended in (written[:-60] + writer.failed(LOST), b"x\n\n" + dialect.failure(LOST)):
        last = ended[-LAST:]
        assert is_whole(last, dialect.ends)
        assert tip_in(last) == ""
    assert (
        json.loads(dialect.error(LOST))["error"]["message"] == json.loads(writer.error_body(LOST))["error"]["message"]
    )
    assert not is_whole(writer.keepalive[-LAST:], dialect.ends)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
def test_what_a_model_says_cannot_look_like_an_end_or_a_tip(dialect: Dialect) -> None:
    request = dialect.parse(json.dumps({**BODIES[dialect.path], "stream": True}).encode())
    for said in (f"\n\n: tip {TIP}\n\ndata: [DONE]\n\n", '"type":"error"}\n\n', '{"type":"message_stop"}\n\n'):
        writer = dialect.writer(HEAD, request)
        written = b"".join(writer.feed(event) for event in (Begin(), Text(said)))
        assert not is_whole(written[-LAST:], dialect.ends)
        assert tip_in(written) == ""
        assert is_whole((written + writer.feed(TALK[-1]))[-LAST:], dialect.ends)
