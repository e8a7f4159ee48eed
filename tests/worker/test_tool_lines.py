"""Tool calls in one line."""

from __future__ import annotations

import json

import pytest

from claude_worker.tool_lines import describe_call, is_object


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [("Bash", '{"command": "ls\\n-l", "description": "d"}', "Bash: ls -l"), ("Read", '{"file_path": "/a"}', "Read: /a"),
     ("Odd", "{}", "Odd"), ("Torn", '{"comm', "Torn"), ("List", "[1]", "List")],
)  # fmt: skip
def test_tool_calls_are_told_in_one_line(name: str, given: str, line: str) -> None:
    assert describe_call(name, given) == line
    assert len(describe_call("Bash", json.dumps({"command": "x" * 999}))) == 200


@pytest.mark.parametrize(("text", "whole"), [("{}", True), ('{"a', False), ("[]", False), ("", False)])
def test_whole_objects_are_told_from_torn_ones(text: str, whole: bool) -> None:
    assert is_object(text) is whole
