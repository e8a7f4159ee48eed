"""Which requests are refused, and how."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_worker.openai.errors import ApiError, model_failure
from claude_worker.openai.request import parse


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b'{"messages":[{"role":"user","content":"\xff"}]}', "invalid_json", None),
        (b"[]", "invalid_body", None),
        (b'"hi"', "invalid_body", None),
        (b"{}", "missing_required_parameter", "messages"),
        (b'{"messages":[]}', "empty_messages", "messages"),
        (b'{"messages":"hi"}', "invalid_type", "messages"),
        (b'{"messages":[{"content":"a"}]}', "missing_required_parameter", "messages[0].role"),
        (b'{"messages":[{"role":"robot","content":"a"}]}', "invalid_role", "messages[0].role"),
        (b'{"messages":[{"role":"user","content":3}]}', "invalid_type", "messages[0].content"),
        (b'{"messages":[{"role":"user"}]}', "missing_content", "messages[0].content"),
        (b'{"messages":[{"role":"user","content":" "}]}', "empty_message", "messages[0].content"),
        (b'{"messages":[{"role":"user","content":[]}]}', "empty_message", "messages[0].content"),
        (b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}', "last_message_not_user",
         "messages[1].role"),
        (b'{"messages":[{"role":"user","content":[{"type":"audio"}]}]}', "unsupported_content",
         "messages[0].content[0].type"),
        (b'{"messages":[{"role":"user","content":[{"type":"text"}]}]}', "missing_required_parameter",
         "messages[0].content[0].text"),
        (b'{"messages":[{"role":"user","content":"a"}],"stream":"yes"}', "invalid_type", "stream"),
        (b'{"messages":[{"role":"user","content":"a"}],"model":7}', "invalid_type", "model"),
        (b'{"messages":[{"role":"user","content":"a"}],"n":2}', "unsupported_value", "n"),
        (b'{"messages":[{"role":"user","content":"a"}],"stop":3}', "invalid_type", "stop"),
        (b'{"messages":[{"role":"user","content":"a"}],"tools":{}}', "invalid_type", "tools"),
        (b'{"messages":[{"role":"user","content":"a"}],"temperature":"hot"}', "invalid_type", "temperature"),
        (b'{"messages":[{"role":"user","content":"a"}],"novel":1,"stream":"yes"}', "invalid_type", "stream"),
        (b'{"messages":[{"role":"user","content":"a"}],"novel":1,"novel', "invalid_json", None),
        (b'{"messages":[{"role":"user","content":"a"}],"function_call":false}', "unsupported_parameter",
         "function_call"),
        (b'{"messages":[{"role":"user","content":"a"}],"functions":[]}', "unsupported_parameter", "functions"),
        (b'{"messages":[{"role":"user","content":"a"}],"response_format":{}}', "missing_required_parameter",
         "response_format.type"),
    ],
)  # fmt: skip
def test_bad_requests(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body)
    error = json.loads(caught.value.body())["error"]
    assert (caught.value.status, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]


def test_unknown_fields_are_accepted() -> None:
    body = {"messages": [{"role": "user", "content": "a", "cache_control": {"type": "ephemeral"}}], "novel": {"x": 1}}
    assert parse(json.dumps(body).encode()).messages[0].text() == "a"


def test_what_is_refused_may_be_sent_as_null_or_off() -> None:
    off = {"functions": None, "function_call": None, "audio": None, "moderation": None, "logprobs": False,
           "top_logprobs": 0, "modalities": ["text"], "n": None, "response_format": None}  # fmt: skip
    request = parse(json.dumps({"messages": [{"role": "user", "content": "a"}], **off}).encode())
    assert request.unknown == ()


def test_tools_are_taken_in_any_form_until_somebody_asks_for_them() -> None:
    request = parse(b'{"messages":[{"role":"user","content":"a"}],"tools":[{"name":"x"}],"tool_choice":"any"}')
    with pytest.raises(ApiError, match=r"tools\[0\].type"):
        request.client_tools()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_api_error(body: bytes) -> None:
    try:
        assert parse(body).messages
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - anything else raised fails the test


@pytest.mark.parametrize(("status", "shown"), [(401, 401), (403, 403), (429, 429), (500, 502), (529, 503), (None, 502)])
def test_failures_of_the_model_have_a_status_and_are_not_to_be_repeated(status: int | None, shown: int) -> None:
    error = model_failure(status, "m")
    assert (error.status, error.headers["x-should-retry"]) == (shown, "false")
