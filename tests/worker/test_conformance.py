"""`docs/openai-conformance.md`: every row is true, and no field of OpenAI's SDK is missing."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import BaseModel

from claude_worker.content import message_blocks
from claude_worker.events import Arguments, Begin, End, Event, Reasoning, Text, ToolCall, UsageView
from claude_worker.openai.chunks import ChatWriter, Head
from claude_worker.openai.errors import ApiError
from claude_worker.openai.fields import ignored
from claude_worker.openai.request import ChatRequest, parse

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openai-conformance.md"
LAST = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "now"}}
STANDS_AS = {
    "name": "messages.name",
    "image_url.detail": "messages.content.image_url.detail",
    "tools.function.strict": "tools.function.strict",
}
"""Fields that the header names by more than their row does."""


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without backticks."""
    text = DOCUMENT.read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def examples() -> Iterator[Any]:
    for field, example, here, *_ in rows("Request"):
        name, value = field.split(".")[0], json.loads(example)
        body = {"messages": [LAST], **({"tools": [TOOL]} if name == "tool_choice" else {}), name: value}
        yield pytest.param(STANDS_AS.get(field, field), body, here, id=f"{field}={example[:30]}")
    for field, example, here, *_ in rows("Messages"):
        body = {"messages": [json.loads(example), LAST]}
        yield pytest.param(STANDS_AS.get(field, field), body, here, id=f"messages.{field}={example[:30]}")
    for field, example, here, *_ in rows("Content parts"):
        message = {"role": "user", "content": [json.loads(example), {"type": "text", "text": "hi"}]}
        yield pytest.param(STANDS_AS.get(field, field), {"messages": [message]}, here, id=f"part.{field}")


def checked(body: dict[str, Any]) -> ChatRequest:
    """As a worker takes a request for a model that has the client's tools."""
    request = parse(json.dumps(body).encode())
    request.client_tools()
    request.schema()
    for message in request.messages:
        message_blocks(message)
    return request


@pytest.mark.parametrize(("field", "body", "here"), [*examples()])
def test_a_field_does_what_its_row_says(field: str, body: dict[str, Any], here: str) -> None:
    if here == "refused":
        with pytest.raises(ApiError) as caught:
            checked(body)
        assert caught.value.status == 400
        return
    named = ignored(checked(body), own_tools_only=False)
    assert named == ([field] if here == "ignored" else [])
    assert here in ("honoured", "ignored")


def test_no_field_of_a_request_is_missing() -> None:
    listed = {field.split(".")[0] for field, *_ in rows("Request")}
    sdk = set(typing.get_type_hints(CompletionCreateParamsBase)) | {"stream"}
    assert sdk - listed == set()
    assert set(ChatRequest.__struct_fields__) - listed == {"previous", "unknown"}


# -- answers -----------------------------------------------------------------------------------------------------------

EVENTS: list[Event] = [
    Begin(),
    Reasoning("hm"),
    Text("It is "),
    ToolCall(0, "toolu_1", "now"),
    Arguments(0, "{}"),
    End("tool_calls", UsageView(3, 2, 1, 1, 1), 0.01, "session", "0" * 32),
]


def writer() -> ChatWriter:
    return ChatWriter(Head(id="1" * 32, created=1, model="claude-code"), include_usage=True)


def chunks() -> list[Any]:
    stream = writer()
    text = b"".join(stream.feed(event) for event in EVENTS).decode()
    found = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(line) for line in found[:-1]]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a JSON value; lists are `[]`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path, value


def sdk_leaves(annotation: Any, path: str = "") -> Iterator[str]:
    """The paths of all that OpenAI's SDK knows of an answer."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from sdk_leaves(field.annotation, f"{path}.{name}" if path else name)
        return
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    inner = "[]" if typing.get_origin(annotation) is list else ""
    choices = [a for a in typing.get_args(annotation) if a is not type(None)]
    found = [leaf for choice in choices for leaf in sdk_leaves(choice, path + inner)]
    yield from found or [path]


def covered(path: str, listed: set[str]) -> bool:
    """A row stands for its field and for all that is in it."""
    return path in listed or any(path.startswith((f"{row}.", f"{row}[]")) for row in listed)


ANSWERS = [("Answer", ChatCompletion), ("Chunk", ChatCompletionChunk)]


def answer(section: str) -> list[tuple[str, Any]]:
    objects = chunks() if section == "Chunk" else [json.loads(writer().whole(EVENTS))]
    return [leaf for one in objects for leaf in leaves(one)]


@pytest.mark.parametrize(("section", "model"), ANSWERS)
def test_an_answer_is_as_its_rows_say(section: str, model: type[BaseModel]) -> None:
    found = answer(section)
    for field, here, *_ in rows(section):
        values = [value for path, value in found if path == field or path.startswith(f"{field}.")]
        if here == "given":
            assert any(value is not None for value in values), field
        elif here == "null":
            assert values, field
            assert set(values) == {None}, field
        else:
            assert (here, values) == ("absent", []), field


@pytest.mark.parametrize(("section", "model"), ANSWERS)
def test_no_field_of_an_answer_is_missing(section: str, model: type[BaseModel]) -> None:
    listed = {field for field, *_ in rows(section)}
    paths = [*sdk_leaves(model), *(path for path, _ in answer(section))]
    assert [path for path in paths if not covered(path, listed)] == []
