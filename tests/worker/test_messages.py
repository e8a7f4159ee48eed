"""Requests to /v1/messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker.anthropic.messages import MessagesRequest, ignored, parse
from claude_worker.openai.errors import ApiError
from claude_worker.openai.messages import Message

USER = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {}}


def request(messages: Any = (USER,), **more: Any) -> MessagesRequest:
    return parse(json.dumps({"model": "claude-code", "max_tokens": 9, "messages": messages, **more}).encode())


def refusal(messages: Any = (USER,), **more: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        request(messages, **more)
    assert refused.value.status == 400
    return refused.value


def use(number: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {"n": number}}


def result(number: int, content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"t{number}", "content": content, **more}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


@pytest.mark.parametrize("system", ["Be brief.", [{**text("Be brief."), "cache_control": {"type": "ephemeral"}}]])
def test_text_and_system(system: Any) -> None:
    found = request(system=system)
    assert found.system_text() == "Be brief."
    assert found.turns() == [Message("user", "hello")]


def test_calls_and_results() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    found = request([
        USER,
        {"role": "assistant", "content": [thought, text("I look."), use(1), use(2)]},
        {"role": "user", "content": [text("and more"), result(1), result(2, [text("a"), text("b")])]},
        {"role": "assistant", "content": [thought]},
        {"role": "user", "content": [text("go on")]},
    ])  # fmt: skip
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "tool", "user", "assistant", "user"]
    answer = found.messages[1]
    assert answer.text() == "I look."
    assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in answer.tool_calls or ()] == [
        ("t1", "f", {"n": 1}), ("t2", "f", {"n": 2}),
    ]  # fmt: skip
    assert [(m.tool_call_id, m.text()) for m in found.messages[2:4]] == [("t1", "done"), ("t2", "a\nb")]
    assert [m.text() for m in found.messages[4:]] == ["and more", "", "go on"]


@pytest.mark.parametrize("content", ["no such file", [text("no such file")]])
def test_a_result_that_is_an_error_says_so(content: Any) -> None:
    asked = {"role": "assistant", "content": [use(1)]}
    found = request([USER, asked, {"role": "user", "content": [result(1, content, is_error=True)]}])
    assert "".join(found.messages[-1].text().split("\n")) == "<tool_use_error>no such file</tool_use_error>"


def test_images_and_documents() -> None:
    data = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    blocks = [
        {"type": "image", "source": data}, {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "notes"}, "title": "b"},
    ]  # fmt: skip
    parts = request([{"role": "user", "content": blocks}]).messages[0].parts
    assert [p.image_url.url for p in parts if p.image_url] == ["data:image/png;base64,AAAA", "https://x/y.png"]
    assert [(p.file.filename, p.file.file_data) for p in parts if p.file] == [
        ("a.pdf", "data:application/pdf;base64,AAAA")
    ]
    assert parts[3].text == "b\n\nnotes"


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)  # fmt: skip
def test_tools_and_choice(choice: dict[str, Any], wanted: Any) -> None:
    tools = [{"name": "f", "description": "d", "input_schema": SCHEMA}]
    found = request(tools=tools, tool_choice={**choice, "disable_parallel_tool_use": True})
    assert (found.tool_choice, found.parallel_tool_calls) == (wanted, False)
    assert [(t.name, t.description, t.schema) for t in found.client_tools()] == (
        [] if wanted == "none" else [("f", "d", SCHEMA)]
    )


def test_format_effort_and_thinking() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    found = request(output_config={"format": form, "effort": "low"}, thinking={"type": "adaptive"})
    assert (found.schema(), found.reasoning_effort, found.source.thoughts) == (SCHEMA, "low", True)
    assert request(output_format=form).schema() == SCHEMA
    assert not request(thinking={"type": "disabled"}).source.thoughts


@pytest.mark.parametrize(
    ("messages", "more", "code", "param"),
    [
        ([], {}, "empty_messages", "messages"),
        ("x", {}, "invalid_type", "messages"),
        ([{"role": "user"}], {}, "missing_required_parameter", "messages[0].content"),
        ([{"role": "user", "content": ""}], {}, "empty_message", "messages[0].content"),
        ([{"role": "user", "content": []}], {}, "empty_message", "messages[0].content"),
        ([{"role": "robot", "content": "x"}], {}, "invalid_role", "messages[0].role"),
        ([USER, {"role": "assistant", "content": "pre"}], {}, "last_message_not_user", "messages[1].role"),
        ([USER, {"role": "user", "content": [result(1)]}], {}, "invalid_value", "messages[1].content[0].role"),
        ([{"role": "user", "content": [{"type": "search_result"}]}], {}, "unsupported_content",
         "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}], {},
         "unsupported_content", "messages[0].content[0].source"),
        ([USER, {"role": "assistant", "content": [{"type": "server_tool_use", "id": "x"}]}, USER], {},
         "unsupported_content", "messages[1].content[0].type"),
        ([USER], {"mcp_servers": [{}]}, "unsupported_parameter", "mcp_servers"),
        ([USER], {"container": "c"}, "unsupported_parameter", "container"),
        ([USER], {"tool_choice": {"type": "maybe"}}, "invalid_value", "tool_choice.type"),
        ([USER], {"output_format": {"type": "xml"}}, "unsupported_value", "response_format.type"),
    ],
)  # fmt: skip
def test_refusals(messages: Any, more: dict[str, Any], code: str, param: str) -> None:
    error = refusal(messages, **more)
    assert (error.code, error.param) == (code, param)


def test_what_has_no_effect_is_named() -> None:
    assert ignored(request(stop_sequences=[], temperature=1), own_tools_only=False) == ["max_tokens"]
    found = request(
        stop_sequences=["x"], top_k=5, temperature=0, metadata={"user_id": "u"}, made_up=1,
        output_config={"effort": "low"}, tools=[{"type": "web_search_20250305", "name": "web_search"}],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )  # fmt: skip
    assert set(ignored(found, own_tools_only=True)) == {
        "max_tokens", "stop_sequences", "top_k", "temperature", "metadata", "made_up", "tools",
        "tool_choice.disable_parallel_tool_use",
    }  # fmt: skip
