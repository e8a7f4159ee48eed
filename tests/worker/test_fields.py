"""What `X-Claude-Ignored` names; the single fields are in `test_conformance`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker.openai.fields import DEFAULTS, ignored
from claude_worker.openai.request import ChatRequest, parse

TOOLS = [{"type": "function", "function": {"name": "now"}}]


def request(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"messages": [{"role": "user", "content": "a"}], **fields}).encode())


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in DEFAULTS.items() for v in (None, *values)])
def test_a_value_that_asks_for_nothing_is_not_named(name: str, value: Any) -> None:
    assert ignored(request(**{name: value}), own_tools_only=False) == []


def test_a_plain_chat_ignores_nothing() -> None:
    plain = request(model="claude-code", stream=True, stream_options={"include_usage": True}, temperature=1.0, n=1)
    assert ignored(plain, own_tools_only=True) == []


def test_what_opencode_sends() -> None:
    sent = request(max_tokens=32000, tools=TOOLS, tool_choice="auto", stream=True)
    assert ignored(sent, own_tools_only=True) == ["max_tokens", "tools"]
    assert ignored(sent, own_tools_only=False) == ["max_tokens"]


@pytest.mark.parametrize(
    ("fields", "own", "clients"),
    [
        ({"tools": TOOLS, "tool_choice": "none"}, [], []),
        ({"tools": []}, [], []),
        ({"tools": TOOLS, "tool_choice": "required"}, ["tools", "tool_choice"], ["tool_choice"]),
        ({"tools": ["anything"]}, ["tools"], []),
        ({"parallel_tool_calls": False}, ["parallel_tool_calls"], ["parallel_tool_calls"]),
    ],
)
def test_tools_that_are_left_aside_are_named(fields: dict[str, Any], own: list[str], clients: list[str]) -> None:
    assert ignored(request(**fields), own_tools_only=True) == own
    assert ignored(request(**fields), own_tools_only=False) == clients


def test_a_selection_of_tools_is_honoured_only_when_there_are_tools() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS}}
    sent = request(tools=TOOLS, tool_choice=allowed)
    assert ignored(sent, own_tools_only=False) == []
    assert ignored(sent, own_tools_only=True) == ["tools", "tool_choice"]
    allowed["allowed_tools"]["mode"] = "required"  # type: ignore[index]
    assert ignored(request(tools=TOOLS, tool_choice=allowed), own_tools_only=False) == ["tool_choice"]


def test_metadata_beside_the_conversations_id_is_named() -> None:
    assert ignored(request(metadata={"conversation_id": "a"}), own_tools_only=False) == []
    assert ignored(request(metadata={"conversation_id": "a", "x": "y"}), own_tools_only=False) == ["metadata"]


def test_unknown_fields_are_named_as_a_header_can_say_them() -> None:
    sent = request(**{"top_k": 1, "a\r\nx: y": {"deep": [1]}, "é": None, "z" * 100: 1})
    assert ignored(sent, own_tools_only=False) == ["top_k", "a??x??y", "?", "z" * 64]
    assert len(ignored(request(**{f"field{i}": i for i in range(100)}), own_tools_only=False)) == 16


def test_what_is_only_ours_to_set_is_an_unknown_field_in_a_body() -> None:
    sent = request(previous="0" * 32, unknown=["x"])
    assert (sent.previous, sent.unknown) == (None, ("previous", "unknown"))
