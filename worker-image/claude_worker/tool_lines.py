"""Tool calls of the CLI as its readers see them: a line each."""

from __future__ import annotations

from typing import Any

import msgspec

_SUBJECTS = (
    "command",
    "file_path",
    "path",
    "pattern",
    "url",
    "query",
    "description",
    "prompt",
    "skill",
    "subject",
)
_LINE_MAX = 200


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None


def is_object(text: str) -> bool:
    """It is a JSON object, and all of it."""
    return isinstance(_decoded(text), dict)


def describe_call(name: str, input_json: str) -> str:
    """One line for a tool call: its name and what it is about."""
    given = _decoded(input_json)
    values = given if isinstance(given, dict) else {}
    subject = next((str(values[k]) for k in _SUBJECTS if values.get(k)), "")
    line = " ".join(f"{name}: {subject}".split()) if subject else name
    return line if len(line) <= _LINE_MAX else line[: _LINE_MAX - 1] + "…"
