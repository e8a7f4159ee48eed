"""LangChain's ChatOpenAI with tools, streams, structured output, and a history that it keeps itself."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from local.clients.asked import Asked, calls, dialogue
from local.server import Server

BOTH = calls(("mul", {"a": 3, "b": 4}), ("mul", {"a": 5, "b": 6}))
PROMPT = "\n".join(("::say Let me see.", BOTH, "::results"))
WAYS = {"chat": False, "responses": True}


@tool
def mul(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


class Person(BaseModel):
    name: str
    age: int


def chat_model(server: Server, conversation: str = "", **options: Any) -> ChatOpenAI:
    headers = {"X-Conversation-ID": conversation} if conversation else None
    return ChatOpenAI(
        model="claude-code-client",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        default_headers=headers,
        max_retries=0,
        **options,
    )


def with_results(answer: BaseMessage) -> list[BaseMessage]:
    """The answer, and what the tools it calls say."""
    assert isinstance(answer, AIMessage)
    return [answer, *(mul.invoke(call) for call in answer.tool_calls)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "by-history"])
def test_tools_then_another_prompt_and_a_regenerated_answer(
    server: Server, asked: Asked, way: str, named: bool
) -> None:
    name = f"langchain-{way}" if named else ""
    model = chat_model(server, name, use_responses_api=WAYS[way]).bind_tools([mul])
    prompt = f"::think langchain {way} {named}\n{PROMPT}"
    history: list[BaseMessage] = [SystemMessage("Multiply."), HumanMessage(prompt)]
    answer = model.invoke(history)
    assert isinstance(answer, AIMessage)
    assert [call["args"] for call in answer.tool_calls] == [{"a": 3, "b": 4}, {"a": 5, "b": 6}]
    history += with_results(answer)
    answer = model.invoke(history)
    assert answer.text == '["12", "30"]'
    assert [entry["prompts"] for entry in asked.turns] == [[prompt]] * 2
    history += [answer, HumanMessage("::say more")]
    assert model.invoke(history).text == "more"
    continued = [*dialogue(prompt, "Let me see."), ("assistant", '["12", "30"]'), ("user", "::say more")]
    assert asked.last == continued
    assert model.invoke(history).text == "more", "asked again with the same history: generated again"
    assert asked.last == continued
    assert len(asked.with_prompt("::say more")) == 2


def test_a_stream_with_tools(server: Server, asked: Asked) -> None:
    model = chat_model(server, "langchain-stream", stream_usage=True).bind_tools([mul])
    history: list[BaseMessage] = [HumanMessage(PROMPT)]
    for _ in range(2):
        whole = functools.reduce(operator.add, model.stream(history))
        history += with_results(AIMessage(whole.content, tool_calls=whole.tool_calls))
    assert history[-1].text == '["12", "30"]'
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
    assert asked.turns[-1]["prompts"] == [PROMPT]


@pytest.mark.parametrize("way", WAYS)
def test_structured_output(server: Server, way: str) -> None:
    model = chat_model(server, use_responses_api=WAYS[way]).with_structured_output(Person)
    prompt = f'::think {way}\n::tool StructuredOutput {{"name": "Ada", "age": 36}}'
    assert model.invoke(prompt) == Person(name="Ada", age=36)


def test_two_that_begin_with_the_same_words_do_not_share_a_conversation(server: Server, asked: Asked) -> None:
    begin: list[BaseMessage] = [HumanMessage("::think the same\n::say one")]
    users = {name: [*begin, chat_model(server).invoke(begin)] for name in ("ann", "bob")}
    for name, history in users.items():
        history += [HumanMessage(f"::say {name}")]
        history += [chat_model(server).invoke(history), HumanMessage(f"::say {name} again")]
        chat_model(server).invoke(history)
        texts = [text for _, text in asked.last]
        assert any(name in text for text in texts)
        assert not any(other in text for other in users if other != name for text in texts)


async def test_prompts_at_once_do_not_mix(server: Server) -> None:
    model = chat_model(server)
    answers = await model.abatch([f"::say {n}" for n in range(6)])
    assert [answer.text for answer in answers] == [str(n) for n in range(6)]
