"""The bytes of a message, as the official SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from claude_worker.dialect import LAST, MESSAGES, is_whole, tip_in
from claude_worker.events import Begin, End, Event, Text
from claude_worker.openai.errors import ApiError
from worker.dialects import CALLS, HEAD, LOST, TALK, TIP, TURN, USAGE, Service, frames

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USER: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [{"name": n, "input_schema": {"type": "object", "properties": {}}} for n in ("weather", "now")]


def stream(events: list[Event], **more: Any) -> bytes:
    request = MESSAGES.parse(json.dumps({"messages": USER, "max_tokens": 9, "stream": True, **more}).encode())
    writer = MESSAGES.writer(HEAD, request)
    return b"".join(writer.feed(event) for event in events)


def sdk(service: Service) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url="http://x", http_client=service.client, max_retries=0)


@pytest.mark.parametrize("events", [TALK, CALLS, [Begin(), TALK[-1]], TALK[1:]])
@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}])
def test_every_event_is_one_that_the_sdk_knows(events: list[Event], thinking: Any) -> None:
    found = frames(stream(events, thinking=thinking))
    for data in found:
        assert EVENTS.validate_python(data).type == data["type"]
    assert found[0]["type"] == "message_start"
    assert [d["type"] for d in found[-2:]] == ["message_delta", "message_stop"]
    opened = None
    for data in found:  # one block after another
        if data["type"] == "content_block_start":
            assert opened is None
            opened = data["index"]
        elif data["type"].startswith("content_block"):
            assert data["index"] == opened
            opened = None if data["type"] == "content_block_stop" else opened
    assert opened is None
    assert ("thinking" in str(found)) == (thinking is not None and events is not CALLS and len(events) > 2)


def test_the_end_is_known_by_the_last_bytes() -> None:
    last = stream(TALK)[-LAST:]
    assert is_whole(last, MESSAGES.ends)
    assert tip_in(last) == TIP
    assert not is_whole(stream(TALK[:-1])[-LAST:], MESSAGES.ends)
    last = stream([Begin(), End("stop", USAGE)])[-LAST:]
    assert is_whole(last, MESSAGES.ends)
    assert tip_in(last) == ""


def test_the_sdk_puts_a_talk_together() -> None:
    with sdk(Service(MESSAGES, TALK)).messages.stream(
        model="claude-code", max_tokens=9, messages=USER, thinking={"type": "adaptive"}
    ) as events:
        told = "".join(events.text_stream)
        final = events.get_final_message()
    assert told == "It is “sunny”\ntoday."
    assert [block.type for block in final.content] == ["thinking", "text", "thinking", "text"]
    assert (final.id, final.model, final.stop_reason) == (f"msg_{TURN}", "claude-code", "end_turn")
    usage = final.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (30, 60, 10)
    assert usage.output_tokens == 20
    whole = sdk(Service(MESSAGES, TALK)).messages.create(model="claude-code", max_tokens=9, messages=USER)
    assert [block.type for block in whole.content] == ["text"]
    assert whole.usage == usage


def test_the_sdk_goes_round_with_tools() -> None:
    service = Service(MESSAGES, CALLS)
    client = sdk(service)
    with client.messages.stream(model="claude-code", max_tokens=9, messages=USER, tools=TOOLS) as events:
        streamed = events.get_final_message()
    whole = client.messages.create(model="claude-code", max_tokens=9, messages=USER, tools=TOOLS)
    for answer in (streamed, whole):
        assert answer.stop_reason == "tool_use"
        calls = [b for b in answer.content if b.type == "tool_use"]
        assert [(b.id, b.name, b.input) for b in calls] == [("toolu_1", "weather", {"city": "Oslo"}),
                                                            ("toolu_2", "now", {})]  # fmt: skip
    results = [{"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "8 °C"} for n in (1, 2)]
    messages: list[Any] = [*USER, whole.to_param(), {"role": "user", "content": results}]
    client.messages.create(model="claude-code", max_tokens=9, messages=messages, tools=TOOLS)
    assert [m.role for m in service.requests[-1].messages] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize("reason", [("length", "max_tokens"), ("content_filter", "refusal"), ("stop", "end_turn")])
def test_why_it_ended(reason: Any) -> None:
    events: list[Event] = [Begin(), Text("x"), End(reason[0], USAGE)]
    (delta,) = [d for d in frames(stream(events)) if d["type"] == "message_delta"]
    writer = MESSAGES.writer(HEAD, MESSAGES.parse(json.dumps({"messages": USER}).encode()))
    whole = json.loads(writer.whole(events))
    Message.model_validate(whole)
    assert delta["delta"]["stop_reason"] == whole["stop_reason"] == reason[1]
    assert delta["usage"] == whole["usage"]


@pytest.mark.parametrize("events", [[], [Begin()], TALK[:5]])
def test_a_failure_is_raised_by_the_sdk(events: list[Event]) -> None:
    answer = sdk(Service(MESSAGES, events, failure=LOST)).messages.create(
        model="claude-code", max_tokens=9, messages=USER, stream=True
    )
    with pytest.raises(anthropic.APIStatusError) as failed:
        list(answer)
    assert "The worker was lost." in str(failed.value)
    assert is_whole(MESSAGES.failure(LOST)[-LAST:], MESSAGES.ends)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (409, "invalid_request_error"), (413, "request_too_large"),
        (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"),
    ],
)  # fmt: skip
def test_errors(status: int, kind: str) -> None:
    body = json.loads(MESSAGES.error(ApiError(status, "no", code="our_code")))
    assert body == {"type": "error", "error": {"type": kind, "message": "no", "code": "our_code"}}


def test_a_refusal_at_the_sdk() -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        sdk(Service(MESSAGES, [])).messages.create(model="claude-code", max_tokens=9, messages=[])
    assert "messages" in str(refused.value)
