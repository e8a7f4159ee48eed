"""Requests to /v1/responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_worker.openai.errors import ApiError
from claude_worker.openai.messages import Message
from claude_worker.openai.response_ids import previous_response, response_id
from claude_worker.openai.responses import ResponsesRequest, ignored, parse

TURN = "0123456789abcdef" * 2


def request(items: Any = "hello", **more: Any) -> ResponsesRequest:
    return parse(json.dumps({"model": "claude-code", "input": items, **more}).encode())


def refusal(items: Any = "hello", **more: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        request(items, **more)
    assert refused.value.status == 400
    return refused.value


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{number}", "call_id": f"c{number}", "name": "f", "arguments": "{}"}


def output(number: int, result: Any = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": result}


USER = {"role": "user", "content": "hello"}


def test_text_and_instructions() -> None:
    found = request("hello", instructions="Be brief.")
    assert found.messages == [Message("system", "Be brief."), Message("user", "hello")]
    assert (found.model, found.stream, found.previous) == ("claude-code", None, None)


def test_an_answer_in_several_items_is_one_message() -> None:
    said = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed"}
    found = request([
        USER,
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
        {**said, "content": [{"type": "output_text", "text": "A", "annotations": []}]},
        {"type": "item_reference", "id": "rs_2"},
        {**said, "content": [{"type": "output_text", "text": "B"}, {"type": "refusal", "refusal": "no"}]},
        call(1), call(2), output(1), output(2, [{"type": "input_text", "text": "two"}]),
    ])  # fmt: skip
    roles = [m.role for m in found.messages]
    assert roles == ["user", "assistant", "tool", "tool"]
    answer = found.messages[1]
    assert answer.text() == "A\n\nBno"
    assert [c.id for c in answer.tool_calls or ()] == ["c1", "c2"]
    assert [(m.tool_call_id, m.text()) for m in found.messages[2:]] == [("c1", "done"), ("c2", "two")]


def test_images_and_files() -> None:
    uri = "data:image/png;base64,AAAA"
    content = [
        {"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": uri, "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
    ]  # fmt: skip
    (message,) = request([{"role": "user", "content": content}]).messages
    text, image, file = message.parts
    assert text.text == "look"
    assert image.image_url
    assert image.image_url.url == uri
    assert file.file
    assert file.file.filename == "a.pdf"


def test_tools_choice_format_and_effort() -> None:
    schema = {"type": "object", "properties": {}}
    found = request(
        tools=[{"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        reasoning={"effort": "high", "summary": "auto"},
    )
    (tool,) = found.client_tools()
    assert (tool.name, tool.description, tool.schema) == ("f", "d", schema)
    assert found.schema() == schema
    assert found.reasoning_effort == "high"
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    two = [{"type": "function", "name": n, "parameters": schema} for n in "fg"]
    assert [t.name for t in request(tools=two, tool_choice=allowed).client_tools()] == ["g"]
    assert request(text={"format": {"type": "text"}}).schema() is None


def test_a_previous_response_names_conversation_and_turn() -> None:
    found = request([output(1)], previous_response_id=response_id("my talk", TURN), instructions="x")
    assert (found.previous_conversation, found.previous) == ("my talk", TURN)
    assert [m.role for m in found.messages] == ["system", "tool"]
    assert request([output(1), USER], previous_response_id=response_id("c", TURN)).previous == TURN
    # What is not an answer to what the client leaves out must still be right.
    assert refusal([USER, call(1), output(2)], previous_response_id=response_id("c", TURN)).code == "invalid_value"


@pytest.mark.parametrize("given", ["resp_x", "chatcmpl-1", "resp__" + "g" * 32, "resp_a_" + TURN, "x" * 500])
def test_a_foreign_response_id(given: str) -> None:
    error = refusal(previous_response_id=given)
    assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")
    assert len(error.message) < 200


@given(st.text(st.characters(), max_size=256))
def test_response_ids_keep_any_conversation_id(conversation: str) -> None:
    assert previous_response(response_id(conversation, TURN)) == (conversation, TURN)


@pytest.mark.parametrize("given", ["c", {"id": "c"}])
def test_a_conversation(given: Any) -> None:
    assert request(conversation=given).conversation_id == "c"
    assert refusal(conversation=given, previous_response_id=response_id("c", TURN)).param == "conversation"


@pytest.mark.parametrize(
    ("items", "more", "code", "param"),
    [
        ([], {}, "empty_messages", "input"),
        ("", {}, "empty_message", "input.content"),
        (7, {}, "invalid_type", "input"),
        ([USER, {"role": "assistant", "content": "x"}], {}, "last_message_not_user", "input[1].role"),
        ([{"content": "x"}], {}, "missing_required_parameter", "input[0].role"),
        ([{"role": "user"}], {}, "missing_required_parameter", "input[0].content"),
        ([{"role": "robot", "content": "x"}], {}, "invalid_role", "input[0].role"),
        ([USER, {"type": "item_reference", "id": "msg_1"}], {}, "unsupported_item", "input[1].type"),
        ([{"type": "computer_call"}], {}, "unsupported_item", "input[0].type"),
        ([USER, output(1)], {}, "invalid_value", "input[1].role"),
        ([USER, call(1), output(2)], {"instructions": "x"}, "invalid_value", "input[2].tool_call_id"),
        ([{"type": "function_call_output", "call_id": "c"}], {}, "missing_required_parameter", "input[0].output"),
        ([{"type": "function_call", "call_id": "c", "name": "f"}], {}, "missing_required_parameter",
         "input[0].arguments"),
        ([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}], {}, "unsupported_content",
         "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], {}, "unsupported_content",
         "input[0].content[0].type"),
        ("x", {"background": True}, "unsupported_parameter", "background"),
        ("x", {"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ("x", {"top_logprobs": 1}, "unsupported_parameter", "top_logprobs"),
        ("x", {"stream": "yes"}, "invalid_type", "stream"),
        ("x", {"text": {"format": {"type": "grammar"}}}, "unsupported_value", "response_format.type"),
    ],
)  # fmt: skip
def test_refusals(items: Any, more: dict[str, Any], code: str, param: str) -> None:
    error = refusal(items, **more)
    assert (error.code, error.param) == (code, param)
    assert "messages" not in error.message.replace("messages with role", "")


@pytest.mark.parametrize(("body", "code"), [(b"{", "invalid_json"), (b"[]", "invalid_body"), (b"\xff", "invalid_json")])
def test_malformed_bodies(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(body)
    assert refused.value.code == code
    with pytest.raises(ApiError) as refused:
        parse(b"{}")
    assert (refused.value.code, refused.value.param) == ("missing_required_parameter", "input")


def test_what_has_no_effect_is_named() -> None:
    nothing = request(
        temperature=1, top_p=None, truncation="disabled", store=False, include=[], parallel_tool_calls=True,
        metadata={"a": "b"}, text={"format": {"type": "text"}, "verbosity": "medium"}, service_tier="auto",
    )  # fmt: skip
    assert ignored(nothing, own_tools_only=True) == []
    something = request(
        temperature=0, truncation="auto", store=True, include=["reasoning.encrypted_content"], max_output_tokens=5,
        text={"verbosity": "low"}, tools=[{"type": "web_search"}], reasoning={"effort": "low"}, made_up=1, user="me",
    )  # fmt: skip
    assert set(ignored(something, own_tools_only=True)) == {
        "temperature", "truncation", "store", "include", "max_output_tokens", "text.verbosity", "tools",
        "made_up", "user",
    }  # fmt: skip
