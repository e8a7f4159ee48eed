"""The `openai` Python SDK against the whole server: nothing of it may need special treatment."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from local.harness import Model
from local.server import Server, serving

KEY = "sk-team-key-1"


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sessions")
    with serving(model, folder, API_KEYS=KEY, POOL_SIZE="4") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as sdk:
        yield sdk


def say(sdk: openai.OpenAI, text: str, **options: object) -> str:
    answer = sdk.chat.completions.create(model="claude-code", messages=[{"role": "user", "content": text}], **options)  # type: ignore[call-overload]
    return str(answer.choices[0].message.content)


def named(conversation: str) -> dict[str, dict[str, str]]:
    return {"extra_headers": {"X-Conversation-ID": conversation}}


def test_an_answer(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "::think hm\n::say hello"}]
    answer = client.chat.completions.create(model="claude-code", messages=messages)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens > (answer.usage.prompt_tokens_details.cached_tokens or 0) > 0
    assert answer.model_extra is not None
    assert answer.model_extra["x_claude"]["cost_usd"] > 0


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="claude-code",
        messages=[{"role": "user", "content": "::say one two three"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_async_both_ways(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as sdk:
        create: Any = sdk.chat.completions.create
        messages = [{"role": "user", "content": "::say a b"}]
        whole = await create(model="claude-code", messages=messages)
        stream = await create(model="claude-code", messages=messages, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert whole.choices[0].message.content == text == "a b"


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == [
        "claude-code", "claude-code-tools", "claude-code-client",
        "claude-code-opus", "claude-code-sonnet", "claude-code-haiku",
    ]  # fmt: skip
    assert client.models.retrieve("claude-code-opus").id == "claude-code-opus"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("way", ["header", "model", "body", "metadata"])
def test_every_way_to_name_a_conversation(client: openai.OpenAI, way: str) -> None:
    name = f"named-by-{way}"
    options: dict[str, object] = {
        "header": named(name),
        "model": {},
        "body": {"extra_body": {"conversation_id": name}},
        "metadata": {"metadata": {"conversation_id": name}},
    }[way]  # type: ignore[assignment]
    model = f"claude-code:{name}" if way == "model" else "claude-code"
    create = client.chat.completions.with_raw_response.create
    for text in ("::say first", "::recall"):
        answer = create(model=model, messages=[{"role": "user", "content": text}], **options)  # type: ignore[call-overload]
        assert answer.headers["x-conversation-id"] == name
    assert answer.parse().choices[0].message.content == '["::say first"]'


def test_without_a_name_every_request_is_a_conversation_of_its_own(client: openai.OpenAI) -> None:
    assert say(client, "::say first") == "first"
    assert say(client, "::recall") == "[]"


def test_the_whole_history_or_only_the_last_message(client: openai.OpenAI, model: Model) -> None:
    history: list[dict[str, str]] = []
    for text in ("::say one", "::say two", "::recall"):
        history.append({"role": "user", "content": text})
        answer = client.chat.completions.create(model="claude-code", messages=history, **named("whole"))  # type: ignore[call-overload]
        history.append({"role": "assistant", "content": answer.choices[0].message.content})
    assert history[-1]["content"] == '["::say one", "::say two"]'
    assert say(client, "::recall", **named("whole")) == '["::say one", "::say two", "::recall"]'


def test_errors_are_the_sdks_own_exceptions(server: Server, client: openai.OpenAI) -> None:
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong-key", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as denied:
        say(stranger, "hi")
    assert denied.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="claude-code", messages=[])
    assert (bad.value.code, bad.value.param) == ("empty_messages", "messages")
    with pytest.raises(openai.RateLimitError) as limited:
        say(client, "::status 429")
    assert limited.value.code == "rate_limit_exceeded"


def test_a_failed_turn_is_not_repeated_by_the_sdks_retries(server: Server, model: Model) -> None:
    mark = model.mark()
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=2) as sdk,
        pytest.raises(openai.InternalServerError),
    ):
        say(sdk, "::say begun\n::bash true\n::status 500")
    prompts = [e["prompts"] for e in model.log(after=mark)]
    assert all(len(p) == 1 for p in prompts), "the prompt reached the CLI once"


def test_the_sdk_retries_until_a_worker_is_free(model: Model, tmp_path: Path) -> None:
    """503 `pool_exhausted` with Retry-After is what it understands."""
    settings = {"POOL_SIZE": "1", "WARM_WORKERS": "0", "QUEUE_TIMEOUT_MS": "300"}
    with (
        serving(model, tmp_path, **settings) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as once,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=30) as patient,
        ThreadPoolExecutor() as threads,
    ):
        holder = threads.submit(say, once, "::sleep 4\n::say done", **named("long"))
        server.until(busy=1)
        with pytest.raises(openai.InternalServerError) as full:
            say(once, "::say hi", **named("short"))
        assert full.value.code == "pool_exhausted"
        assert int(full.value.response.headers["retry-after"]) >= 1
        create: Any = patient.chat.completions.with_raw_response.create
        answer = create(model="claude-code", messages=[{"role": "user", "content": "::say hi"}], **named("short"))
        assert answer.retries_taken >= 1
        assert answer.parse().choices[0].message.content == "hi"
        assert holder.result() == "done", "it was not interrupted to make room"
