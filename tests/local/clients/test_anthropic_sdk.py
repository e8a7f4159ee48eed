"""Anthropic's own SDK on `/v1/messages`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from local.clients.asked import Asked, calls, dialogue
from local.harness import Model
from local.server import Server, serving

BOTH = calls(("sub", {"a": 9, "b": 2}), ("sub", {"a": 30, "b": 1}))
PROMPT = "\n".join(("::say Let me see.", BOTH, "::results"))
SUB: Any = {
    "name": "sub",
    "description": "Subtract",
    "input_schema": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
}


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as sdk:
        yield sdk


def named(conversation: str) -> dict[str, Any]:
    return {"extra_headers": {"X-Conversation-ID": conversation}} if conversation else {}


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def results_for(message: anthropic.types.Message) -> Any:
    """The user's message that answers every call in `message`."""
    blocks = [
        {"type": "tool_result", "tool_use_id": block.id, "content": str(block.input["a"] - block.input["b"])}  # type: ignore[operator]
        for block in message.content
        if block.type == "tool_use"
    ]
    return {"role": "user", "content": blocks}


def test_an_answer(client: anthropic.Anthropic, asked: Asked) -> None:
    history: Any = [{"role": "user", "content": "::say hello"}]
    create: Any = client.messages.create
    answer = create(model="claude-code", max_tokens=1000, system="Be short.", messages=history)
    assert (text_of(answer), answer.stop_reason, answer.role) == ("hello", "end_turn", "assistant")
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert "Be short." in asked.turns[-1]["system"]


@pytest.mark.parametrize("conversation", ["anthropic", ""], ids=["named", "by-history"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tools_then_another_prompt_and_an_edit(
    client: anthropic.Anthropic, asked: Asked, conversation: str, stream: bool
) -> None:
    prompt = f"::think {conversation} {stream}\n{PROMPT}"
    history: Any = [{"role": "user", "content": prompt}]
    options: Any = {"model": "claude-code-client", "max_tokens": 1000, "tools": [SUB]}
    options |= named(conversation and f"{conversation}-{stream}")

    def ask() -> anthropic.types.Message:
        if not stream:
            return client.messages.create(messages=history, **options)  # type: ignore[no-any-return]
        with client.messages.stream(messages=history, **options) as events:
            return events.get_final_message()

    answer = ask()
    assert (text_of(answer), answer.stop_reason) == ("Let me see.", "tool_use")
    history += [{"role": "assistant", "content": answer.content}, results_for(answer)]
    answer = ask()
    assert (text_of(answer), answer.stop_reason) == ('["7", "29"]', "end_turn")
    history += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": "::say more"}]
    assert text_of(ask()) == "more"
    continued = [*dialogue(prompt, "Let me see."), ("assistant", '["7", "29"]'), ("user", "::say more")]
    assert asked.last == continued
    history[-1] = {"role": "user", "content": "::say else"}
    assert text_of(ask()) == "else"
    assert asked.last == [*continued[:-1], ("user", "::say else")]


def test_a_stream_of_text(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "::say one two three"}]
    with client.messages.stream(model="claude-code", max_tokens=1000, messages=messages) as events:
        assert "".join(events.text_stream) == "one two three"
        final = events.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


def test_errors_are_the_sdks_own_exceptions(model: Model, tmp_path_factory: pytest.TempPathFactory) -> None:
    messages: Any = [{"role": "user", "content": "::say hi"}]
    with serving(model, tmp_path_factory.mktemp("keys"), API_KEYS="sk-team-key-1") as server:
        with (
            anthropic.Anthropic(base_url=server.url, api_key="sk-wrong-key", max_retries=0) as stranger,
            pytest.raises(anthropic.AuthenticationError),
        ):
            stranger.messages.create(model="claude-code", max_tokens=9, messages=messages)
        with anthropic.Anthropic(base_url=server.url, api_key="sk-team-key-1", max_retries=0) as client:
            assert text_of(client.messages.create(model="claude-code", max_tokens=9, messages=messages)) == "hi"
            with pytest.raises(anthropic.NotFoundError) as unknown:
                client.messages.create(model="gpt-4o", max_tokens=9, messages=messages)
            with pytest.raises(anthropic.BadRequestError):
                client.messages.create(model="claude-code", max_tokens=9, messages=[])
            limited: Any = [{"role": "user", "content": "::status 429"}]
            with pytest.raises(anthropic.RateLimitError):
                client.messages.create(model="claude-code", max_tokens=9, messages=limited)
    body: Any = unknown.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
