"""The bytes of a response, as the official SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from claude_worker.dialect import LAST, RESPONSES, is_whole, tip_in
from claude_worker.events import Begin, End, Event, Text
from claude_worker.openai.response_ids import response_id
from worker.dialects import CALLS, HEAD, LOST, TALK, TIP, TURN, USAGE, Service, frames

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ID = response_id("my talk/1", TURN)
TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]


def stream(events: list[Event], **more: Any) -> bytes:
    request = RESPONSES.parse(json.dumps({"input": "x", "stream": True, **more}).encode())
    writer = RESPONSES.writer(HEAD, request)
    return b"".join(writer.feed(event) for event in events)


def sdk(service: Service) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=service.client, max_retries=0)


@pytest.mark.parametrize("events", [TALK, CALLS, [Begin(), TALK[-1]], TALK[1:]])
@pytest.mark.parametrize("reasoning", [{"summary": "auto"}, {"effort": "low"}])
def test_every_event_is_one_that_the_sdk_knows(events: list[Event], reasoning: dict[str, str]) -> None:
    written = stream(events, reasoning=reasoning, tools=TOOLS, metadata={"a": "b"}, instructions="Be brief.")
    found = frames(written)
    for number, data in enumerate(found):
        assert EVENTS.validate_python(data).type == data["type"]
        assert data["sequence_number"] == number
    assert [d["type"] for d in found[:2]] == ["response.created", "response.in_progress"]
    assert found[0]["response"]["id"] == ID
    assert found[-1]["type"] == "response.completed"
    added = [d["item"]["id"] for d in found if d["type"] == "response.output_item.added"]
    done = [d["item"] for d in found if d["type"] == "response.output_item.done"]
    assert added == [item["id"] for item in done]
    assert found[-1]["response"]["output"] == done
    assert any(d["type"].startswith("response.reasoning") for d in found) == (
        "summary" in reasoning and events is not CALLS and len(events) > 2
    )


def test_the_end_is_known_by_the_last_bytes() -> None:
    written = stream(TALK)
    last = written[-LAST:]
    assert is_whole(last, RESPONSES.ends)
    assert tip_in(last) == TIP
    assert not is_whole(stream(TALK[:-1])[-LAST:], RESPONSES.ends)
    without = stream([Begin(), End("stop", USAGE)])
    last = without[-LAST:]
    assert is_whole(last, RESPONSES.ends)
    assert tip_in(last) == ""


def test_the_sdk_puts_a_talk_together() -> None:
    service = Service(RESPONSES, TALK)
    deltas = []
    with sdk(service).responses.stream(
        model="claude-code", input="hi", reasoning={"summary": "auto"}, instructions="x"
    ) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                deltas.append(event.delta)
        final = events.get_final_response()
    assert "".join(deltas) == final.output_text == "It is “sunny”\ntoday."
    assert [item.type for item in final.output] == ["reasoning", "message", "reasoning", "message"]
    assert final.usage
    assert (final.usage.input_tokens, final.usage.input_tokens_details.cached_tokens) == (100, 60)
    assert (final.id, final.status, final.model) == (ID, "completed", "claude-code")
    # Without thoughts in between it is one message.
    whole = sdk(Service(RESPONSES, TALK)).responses.create(model="claude-code", input="hi")
    assert [item.type for item in whole.output] == ["message"]
    assert whole.output_text == final.output_text


def test_the_sdk_goes_round_with_a_tool() -> None:
    service = Service(RESPONSES, CALLS)
    client = sdk(service)
    with client.responses.stream(model="claude-code", input="hi", tools=TOOLS) as events:  # type: ignore[arg-type]
        streamed = events.get_final_response()
    whole = client.responses.create(model="claude-code", input="hi", tools=TOOLS)  # type: ignore[arg-type]
    for answer in (streamed, whole):
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(c.call_id, c.name) for c in calls] == [("toolu_1", "weather"), ("toolu_2", "now")]
        assert [json.loads(c.arguments) for c in calls] == [{"city": "Oslo"}, {}]
    results: list[Any] = [{"type": "function_call_output", "call_id": f"toolu_{n}", "output": "8 °C"} for n in (1, 2)]
    client.responses.create(model="claude-code", input=results, previous_response_id=whole.id)
    by_id = service.requests[-1]
    assert (by_id.previous, [m.role for m in by_id.messages]) == (TURN, ["tool", "tool"])
    echoed: list[Any] = [item.model_dump() for item in whole.output]
    client.responses.create(model="claude-code", input=[{"role": "user", "content": "hi"}, *echoed, *results])
    roles = [m.role for m in service.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert service.requests[-1].messages[1].text() == "I look."


def test_a_whole_answer_is_the_streams_last_response() -> None:
    writer = RESPONSES.writer(HEAD, RESPONSES.parse(b'{"input": "x"}'))
    whole = json.loads(writer.whole(CALLS))
    Response.model_validate(whole)
    assert whole == frames(stream(CALLS))[-1]["response"]
    assert whole["x_claude"] == {"cost_usd": 0.25, "session_id": "claude-session"}


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        ("stop", "completed", None),
    ],
)
def test_why_it_ended(reason: Any, status: str, details: Any) -> None:
    data = frames(stream([Begin(), Text("x"), End(reason, USAGE)]))[-1]
    EVENTS.validate_python(data)
    assert data["type"] == f"response.{status}"
    assert (data["response"]["status"], data["response"]["incomplete_details"]) == (status, details)


@pytest.mark.parametrize("events", [[], [Begin()], TALK[:5]])
def test_a_failure_is_told_in_the_stream(events: list[Event]) -> None:
    service = Service(RESPONSES, events, failure=LOST)
    answer = sdk(service).responses.create(model="claude-code", input="hi", stream=True)
    last = list(answer)[-1]
    assert last.type == "response.failed"
    assert last.response.error
    assert (last.response.error.code, last.response.error.message) == ("server_error", "The worker was lost.")
    writer = RESPONSES.writer(HEAD, service.requests[0])
    written = b"".join(writer.feed(e) for e in events) + writer.failed(LOST)
    for data in frames(written):
        EVENTS.validate_python(data)
    assert is_whole(written[-LAST:], RESPONSES.ends)


def test_a_failure_of_a_stream_that_nobody_knows() -> None:
    failure = RESPONSES.failure(LOST)
    (data,) = frames(failure)
    assert EVENTS.validate_python(data).message == "The worker was lost."
    assert is_whole(failure[-LAST:], RESPONSES.ends)
    with pytest.raises(openai.BadRequestError) as refused:
        sdk(Service(RESPONSES, [])).responses.create(model="claude-code", input=[])
    assert refused.value.code == "empty_messages"
