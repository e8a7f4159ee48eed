"""`/v1/responses` through the whole server, with the `openai` SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from local.harness import Model
from local.server import Server, serving

SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA}]
CALLS = '::tools mcp__client__weather {"city": "Oslo"} | mcp__client__weather {"city": "Rome"}\n::results'


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model, tmp_path_factory.mktemp("sessions"), POOL_SIZE="3") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        yield sdk


def told(sdk: openai.OpenAI, prompt: str, **options: Any) -> Any:
    return sdk.responses.create(model="claude-code", input=prompt, **options)


def recalled(answer: Any) -> list[str]:
    found: list[str] = json.loads(answer.output_text)
    return found


def test_a_conversation_by_previous_responses_and_a_branch_of_it(client: openai.OpenAI) -> None:
    first = told(client, "::say one")
    assert (first.output_text, first.status) == ("one", "completed")
    assert first.usage.input_tokens > 0
    second = told(client, "::say two", previous_response_id=first.id)
    third = told(client, "::recall", previous_response_id=second.id)
    assert recalled(third) == ["::say one", "::say two"]
    branch = told(client, "::recall", previous_response_id=first.id)
    assert recalled(branch) == ["::say one"]
    again = told(client, "::recall", previous_response_id=third.id)
    assert recalled(again) == ["::say one", "::say two", "::recall"]


def test_a_stream_and_the_whole_history_without_any_id(client: openai.OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": "::think hm\n::say streamed words"}]
    options: dict[str, Any] = {"model": "claude-code", "reasoning": {"summary": "auto"}, "instructions": "Be brief."}
    with client.responses.stream(input=items, **options) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds.count("response.output_text.delta") >= 2
    assert "response.reasoning_summary_text.delta" in kinds
    assert final.output_text == "streamed words"
    items += [*(item.model_dump(exclude_none=True) for item in final.output), {"role": "user", "content": "::recall"}]
    raw = client.responses.with_raw_response.create(input=items, **options)
    assert recalled(raw.parse()) == [items[0]["content"]]
    assert raw.headers["x-claude-history"] == "continued"


@pytest.mark.parametrize("by_id", [True, False])
def test_calls_of_the_clients_tools(client: openai.OpenAI, by_id: bool) -> None:
    asked: Any = {"model": "claude-code-client", "tools": TOOLS}
    prompt = f"::think {by_id}\n{CALLS}"  # one history must not lead to two conversations
    with client.responses.stream(input=prompt, **asked) as events:
        first = events.get_final_response()
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("weather", {"city": c}) for c in ("Oslo", "Rome")]
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": c.call_id, "output": f"{n} °C"} for n, c in enumerate(calls)
    ]
    if by_id:
        answer = client.responses.create(input=outputs, previous_response_id=first.id, **asked)
    else:
        history: list[Any] = [{"role": "user", "content": prompt}]
        history += [item.model_dump(exclude_none=True) for item in first.output]
        answer = client.responses.create(input=history + outputs, **asked)
    assert recalled(answer) == ["0 °C", "1 °C"]


def test_a_schema(client: openai.OpenAI) -> None:
    form = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}}
    answer = told(client, '::tool StructuredOutput {"city": "Oslo"}', text=form)
    assert json.loads(answer.output_text) == {"city": "Oslo"}


def test_what_it_refuses_and_what_it_leaves_aside(client: openai.OpenAI) -> None:
    unknown = "resp_" + "0" * 32
    with pytest.raises(openai.BadRequestError) as refused:
        told(client, "x", previous_response_id=unknown)
    assert refused.value.code == "previous_response_not_found"
    raw = client.responses.with_raw_response.create(model="claude-code", input="::say x", truncation="auto")
    assert raw.headers["x-claude-ignored"] == "truncation"
