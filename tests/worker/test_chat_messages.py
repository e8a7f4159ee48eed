"""Which messages of a chat are refused, and how: content parts, tool calls, and the results at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker.openai.errors import ApiError
from claude_worker.openai.messages import CallFunction, CallPart, Message, Part, check_last, check_messages
from claude_worker.openai.request import parse

USER = {"role": "user", "content": "what time is it?"}


def call(call_id: str = "a", **changed: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "now", "arguments": "{}"}, **changed}


def asked(*calls: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **changed}


def result(call_id: str = "a", content: Any = "12:00") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def refusal(*messages: dict[str, Any]) -> tuple[str, str | None, str]:
    """Code, param and message."""
    with pytest.raises(ApiError) as caught:
        parse(json.dumps({"messages": messages}).encode())
    error = json.loads(caught.value.body())["error"]
    assert (caught.value.status, error["type"]) == (400, "invalid_request_error")
    return error["code"], error["param"], error["message"]


def test_tool_calls_and_results_are_typed() -> None:
    request = parse(json.dumps({"messages": [USER, asked(call()), result()]}).encode())
    assert request.messages[1].tool_calls == [CallPart("a", "function", CallFunction("now", "{}"))]
    assert request.messages[2] == Message("tool", "12:00", tool_call_id="a")


@pytest.mark.parametrize(
    "messages",
    [
        [USER, asked(call("a"), call("b")), result("b"), result("a")],
        [USER, asked(call()), result(), asked(call("b")), result("b", "")],
        [USER, asked(call()), result(content=[{"type": "text", "text": "12:00"}])],
        [USER, asked(call()), result(content=[])],
        [USER, asked(call()), USER],
        [USER, asked(call("a"), call("b")), result("a"), USER],
        [USER, asked(call(), content="I look."), result(), USER],
        [result("gone"), USER],
        [asked(), USER],
    ],
)
def test_these_are_taken(messages: list[dict[str, Any]]) -> None:
    assert len(parse(json.dumps({"messages": messages}).encode()).messages) == len(messages)


@pytest.mark.parametrize(
    ("messages", "param", "says"),
    [
        ([result()], "messages[0].role", "must be a response to a preceding message with 'tool_calls'"),
        ([USER, result()], "messages[1].role", "must be a response to a preceding"),
        ([USER, asked(), result()], "messages[2].role", "must be a response to a preceding"),
        ([USER, asked(call()), USER, result()], "messages[3].role", "must be a response to a preceding"),
        ([USER, asked(call()), result("x")], "messages[2].tool_call_id", "'tool_call_id' of 'x' not found"),
        ([USER, asked(call("b")), result("b"), asked(call()), result("b")], "messages[4].tool_call_id",
         "'tool_call_id' of 'b' not found"),
        ([USER, asked(call()), result(), result()], "messages[3].tool_call_id", "Duplicate value for 'tool_call_id'"),
        ([USER, asked(call("a"), call("b"), call("c")), result("b")], "messages[1].tool_calls",
         "The following tool_call_ids did not have response messages: a, c"),
    ],
)  # fmt: skip
def test_results_at_the_end_answer_every_call_before_them(messages: list[Any], param: str, says: str) -> None:
    code, at, message = refusal(*messages)
    assert (code, at) == ("invalid_value", param)
    assert says in message


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ({"role": "tool", "content": "x"}, "missing_required_parameter", "tool_call_id"),
        ({"role": "tool", "tool_call_id": "", "content": "x"}, "missing_required_parameter", "tool_call_id"),
        ({"role": "tool", "tool_call_id": "a"}, "missing_content", "content"),
        ({"role": "function", "name": "f", "content": "x"}, "invalid_role", "role"),
        (asked(function_call={"name": "f", "arguments": ""}), "unsupported_parameter", "function_call"),
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "unsupported_content", "audio"),
        (asked(call(type="custom")), "unsupported_value", "tool_calls[0].type"),
        (asked(call(id="")), "invalid_value", "tool_calls[0].id"),
        (asked(call(function={"name": "", "arguments": ""})), "invalid_value", "tool_calls[0].function.name"),
        (asked(call(), call()), "invalid_value", "tool_calls[1].id"),
        (asked(call(function={"name": "f"})), "missing_required_parameter", "tool_calls[0].function.arguments"),
        (asked(call(id=None)), "invalid_type", "tool_calls[0].id"),
        ({**USER, "content": [{"type": "input_audio", "input_audio": {}}]}, "unsupported_content", "content[0].type"),
        ({**USER, "content": [{"type": "image_url"}]}, "missing_required_parameter", "content[0].image_url"),
        ({**USER, "content": [{"type": "image_url", "image_url": {}}]}, "missing_required_parameter",
         "content[0].image_url.url"),
        ({**USER, "content": [{"type": "file"}]}, "missing_required_parameter", "content[0].file"),
        ({**USER, "content": [{"type": "file", "file": {}}]}, "missing_required_parameter",
         "content[0].file.file_data"),
        ({**USER, "content": [{"type": "file", "file": {"file_id": "f"}}]}, "unsupported_parameter",
         "content[0].file.file_id"),
        ({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "unsupported_content",
         "content[0].type"),
        (result(content=[{"type": "file", "file": {"file_data": ""}}]), "unsupported_content", "content[0].type"),
    ],
)  # fmt: skip
def test_a_message_that_is_wrong_by_itself(message: dict[str, Any], code: str, param: str) -> None:
    assert refusal(message, USER)[:2] == (code, f"messages[0].{param}")


def test_what_sdks_dump_along_with_an_answer_is_accepted() -> None:
    echoed: dict[str, Any] = {"role": "assistant", "content": "hello", "annotations": [], "reasoning_content": "hm"}
    echoed |= dict.fromkeys(("refusal", "audio", "function_call", "tool_calls"))
    assert parse(json.dumps({"messages": [USER, echoed, USER]}).encode()).messages[1].text() == "hello"


@pytest.mark.parametrize("content", [[{"type": "text", "text": " "}], [{"type": "text", "text": ""}] * 2, "\n"])
def test_blank_parts_are_an_empty_message(content: Any) -> None:
    assert refusal(USER, {"role": "user", "content": content})[:2] == ("empty_message", "messages[1].content")


def test_an_image_alone_is_a_message() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}}
    assert parse(json.dumps({"messages": [{"role": "user", "content": [image]}]}).encode()).messages[0].text() == ""


def test_text_is_that_of_all_text_parts_or_the_refusal() -> None:
    assert Message("user", [Part("text", "a"), Part("refusal", refusal="b")]).text() == "a\nb"
    assert Message("assistant", None, refusal="no").text() == "no"
    assert (Message("user", "a").parts, Message("user", [Part("text", "a")]).parts) == ([], [Part("text", "a")])


def test_messages_that_other_apis_made_are_checked_the_same_way() -> None:
    messages = [Message("user", "a"), Message("assistant", "b")]
    check_messages(messages)
    with pytest.raises(ApiError, match="must have the role"):
        check_last(messages)
