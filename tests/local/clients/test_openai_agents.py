"""The OpenAI Agents SDK, on chat completions and on the Responses API, with tools that run here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)
from pydantic import BaseModel

from local.clients.asked import Asked, calls, dialogue, told
from local.server import Server

QUIET = RunConfig(tracing_disabled=True)
BOTH = calls(("add", {"a": 1, "b": 2}), ("add", {"a": 30}))
TOOLS_PROMPT = "\n".join(("::say Let me see.", BOTH, "::results"))

KINDS: dict[str, type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]] = {
    "chat": OpenAIChatCompletionsModel,
    "responses": OpenAIResponsesModel,
}


@function_tool
def add(a: int, b: int = 3) -> int:
    """Add two numbers."""
    return a + b


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(params=KINDS)
async def via(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Model]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield KINDS[request.param](model="claude-code-client", openai_client=client)


def agent(model: Model, conversation: str = "", **options: Any) -> Agent[Any]:
    headers = {"X-Conversation-ID": conversation} if conversation else None
    options.setdefault("tools", [add])
    return Agent(
        name="Adder",
        instructions="Add.",
        model=model,
        model_settings=ModelSettings(extra_headers=headers),
        **options,
    )


@pytest.mark.parametrize("conversation", ["agents", ""], ids=["named", "by-history"])
async def test_tools_then_another_prompt_and_an_edit(
    via: Model, asked: Asked, request: pytest.FixtureRequest, conversation: str
) -> None:
    own = f"{conversation}-{request.node.callspec.id}" if conversation else ""
    adder = agent(via, own)
    # The words are this test's own: without a name the conversation is found by them.
    prompt = f"::think {request.node.callspec.id}\n{TOOLS_PROMPT}"
    run = await Runner.run(adder, prompt, run_config=QUIET)
    assert run.final_output == '["3", "33"]'
    assert [entry["prompts"] for entry in asked.turns] == [[prompt]] * 2, "one prompt, results in between"
    history = run.to_input_list()
    more = await Runner.run(adder, [*history, {"role": "user", "content": "::say more"}], run_config=QUIET)
    assert more.final_output == "more"
    continued = [*dialogue(prompt, "Let me see."), ("assistant", '["3", "33"]'), ("user", "::say more")]
    assert asked.last == continued
    edited = await Runner.run(adder, [*history, {"role": "user", "content": "::say else"}], run_config=QUIET)
    assert edited.final_output == "else"
    assert asked.last == [*continued[:-1], ("user", "::say else")]


async def test_streamed_with_the_sdks_own_memory(via: Model, asked: Asked, request: pytest.FixtureRequest) -> None:
    memory = SQLiteSession(request.node.name)
    adder = agent(via, f"memory-{request.node.callspec.id}")
    for prompt, expected in ((TOOLS_PROMPT, '["3", "33"]'), ("::say again", "again")):
        run = Runner.run_streamed(adder, prompt, session=memory, run_config=QUIET)
        kinds = [event.type async for event in run.stream_events()]
        assert run.final_output == expected
        assert kinds.count("raw_response_event") > 3
    assert asked.turns[-1]["prompts"] == [TOOLS_PROMPT, "::say again"]
    memory.close()


async def test_a_conversation_that_is_suspended_while_a_tool_runs(server: Server, asked: Asked) -> None:
    @function_tool
    async def leave() -> str:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return (await client.delete("/conversations/left")).text

    prompt = f"::say Soon.\n{calls(('leave', {}))}\n::results"
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        model = OpenAIChatCompletionsModel(model="claude-code-client", openai_client=client)
        run = await Runner.run(agent(model, "left", tools=[leave]), prompt, run_config=QUIET)
    assert '\\"suspended\\":true' in run.final_output
    assert [entry["prompts"] for entry in asked.turns] == [[prompt]] * 2, "the results found the call that waited"
    assert asked.last == dialogue(prompt, "Soon.")


async def test_an_output_type_is_enforced(via: Model) -> None:
    prompt = '::tool StructuredOutput {"name": "Ada", "age": 36}'
    run = await Runner.run(agent(via, tools=[], output_type=Person), prompt, run_config=QUIET)
    assert run.final_output == Person(name="Ada", age=36)


async def test_only_the_new_items_are_sent_with_previous_response_id(server: Server, asked: Asked) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        adder = agent(OpenAIResponsesModel(model="claude-code-client", openai_client=client))
        prompt = f"::think previous\n{TOOLS_PROMPT}"
        run = await Runner.run(adder, prompt, auto_previous_response_id=True, run_config=QUIET)
        assert run.final_output == '["3", "33"]'
        for text in ("more", "else"):
            later = await Runner.run(
                adder, f"::say {text}", previous_response_id=run.last_response_id, run_config=QUIET
            )
            assert later.final_output == text
            assert asked.turns[-1]["prompts"] == [prompt, f"::say {text}"]
            assert told(asked.turns[-1])[-2] == ("assistant", '["3", "33"]')
