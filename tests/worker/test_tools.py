"""`tools`, `tool_choice` and `response_format`."""

from __future__ import annotations

from typing import Any

import pytest

from claude_worker.bridge import ClientTool
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest, Message

EMPTY = {"type": "object", "properties": {}}


def tool(name: Any = "now", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def request(tools: Any = None, choice: Any = None) -> ChatRequest:
    return ChatRequest([Message("user", "a")], tools=tools, tool_choice=choice)


def only(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool(name) for name in names]}}


def test_function_tools_become_client_tools_in_their_order() -> None:
    schema = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
    found = request([tool("b", description="tells", parameters=schema, strict=True), tool("a")]).client_tools()
    assert found == (ClientTool("b", "tells", schema), ClientTool("a", "", EMPTY))


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, EMPTY),
        ({}, EMPTY),
        ({"properties": {"x": {}}}, {"type": "object", "properties": {"x": {}}}),
        ({"type": "object", "$defs": {}}, {"type": "object", "$defs": {}}),
    ],
)
def test_parameters_are_an_objects_schema(parameters: Any, schema: dict[str, Any]) -> None:
    assert request([tool(parameters=parameters)]).client_tools()[0].schema == schema


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["a", "b"]),
        ("auto", ["a", "b"]),
        ("required", ["a", "b"]),
        ("none", []),
        (tool("b"), ["b"]),
        (only("a"), ["a"]),
        (only("b", mode="required"), ["b"]),
        (only(), []),
    ],
)
def test_the_choice_says_which_tools_are_shown(choice: Any, names: list[str]) -> None:
    assert [t.name for t in request([tool("a"), tool("b")], choice).client_tools()] == names


@pytest.mark.parametrize("choice", [None, "auto", "none"])
@pytest.mark.parametrize("tools", [None, []])
def test_no_tools(tools: Any, choice: Any) -> None:
    assert request(tools, choice).client_tools() == ()


@pytest.mark.parametrize(
    ("tools", "choice", "code", "param"),
    [
        ([7], None, "invalid_type", "tools[0]"),
        ([{}], None, "missing_required_parameter", "tools[0].type"),
        ([{"type": "custom", "custom": {"name": "a"}}], None, "unsupported_value", "tools[0].type"),
        ([{"type": "function"}], None, "missing_required_parameter", "tools[0].function"),
        ([{"type": "function", "function": "f"}], None, "invalid_type", "tools[0].function"),
        ([{"type": "function", "function": {}}], None, "missing_required_parameter", "tools[0].function.name"),
        ([tool("a"), tool("a b")], None, "invalid_type", "tools[1].function.name"),
        ([tool("a" * 65)], None, "invalid_type", "tools[0].function.name"),
        ([tool("a\n")], None, "invalid_type", "tools[0].function.name"),
        ([tool(7)], None, "invalid_type", "tools[0].function.name"),
        ([tool(description=7)], None, "invalid_type", "tools[0].function.description"),
        ([tool(parameters=[])], None, "invalid_type", "tools[0].function.parameters"),
        ([tool(parameters={"type": "string"})], None, "invalid_function_parameters", "tools[0].function.parameters"),
        ([tool(), tool("b"), tool()], None, "invalid_value", "tools[2].function.name"),
        ([tool()], "sometimes", "invalid_value", "tool_choice"),
        ([tool()], [], "invalid_type", "tool_choice"),
        ([tool()], {}, "unsupported_value", "tool_choice.type"),
        ([tool()], {"type": "function"}, "missing_required_parameter", "tool_choice.function.name"),
        ([tool()], tool("other"), "invalid_value", "tool_choice.function.name"),
        ([tool()], {"type": "allowed_tools"}, "missing_required_parameter", "tool_choice.allowed_tools.tools"),
        ([tool()], only(mode="none"), "invalid_value", "tool_choice.allowed_tools.mode"),
        ([tool()], only("now", "x"), "invalid_value", "tool_choice.allowed_tools.tools[1].function.name"),
        (None, "required", "invalid_value", "tool_choice"),
        ([], tool(), "invalid_value", "tool_choice"),
    ],
)
def test_malformed_tools_are_refused(tools: Any, choice: Any, code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(tools, choice).client_tools()
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def formatted(kind: Any, **more: Any) -> ChatRequest:
    return ChatRequest([Message("user", "a")], response_format={"type": kind, **more})


def test_the_schema_of_an_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert formatted("json_schema", json_schema={"name": "x", "schema": schema}).schema() == schema
    assert formatted("json_object").schema() == {"type": "object"}
    assert formatted("text").schema() is None
    assert request().schema() is None


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({}, "missing_required_parameter", "response_format.type"),
        ({"type": "xml"}, "unsupported_value", "response_format.type"),
        ({"type": "json_schema"}, "missing_required_parameter", "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": 1}, "invalid_type", "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {}}, "missing_required_parameter",
         "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": "s"}}, "invalid_type",
         "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"anyOf": []}}}, "invalid_json_schema",
         "response_format.json_schema.schema"),
    ],
)  # fmt: skip
def test_malformed_formats_are_refused(given: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        ChatRequest([Message("user", "a")], response_format=given).schema()
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
