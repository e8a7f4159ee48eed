"""What `tools`, `tool_choice` and `response_format` say, checked; pure functions of their JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.messages import missing

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHOICES = ("none", "auto", "required")


def wrong(where: str, wanted: str) -> ApiError:
    """The refusal of a value that is not `wanted`."""
    return bad_request(f"Invalid value for '{where}': expected {wanted}.", code="invalid_type", param=where)


def functions(tools: Sequence[Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, description and schema of each function tool. Raises ApiError (400)."""
    found = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    names = [name for name, _, _ in found]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise bad_request(f"There are two tools named {name!r}.", code="invalid_value",
                              param=f"tools[{i}].function.name")  # fmt: skip
    return found


def _function(tool: Any, where: str) -> tuple[str, str, dict[str, Any]]:
    if not isinstance(tool, dict):
        raise wrong(where, "an object")
    if (kind := tool.get("type")) != "function":
        if kind is None:
            raise missing(f"{where}.type")
        raise bad_request(f"'{where}.type' is {kind!r}; it must be 'function'.", code="unsupported_value",
                          param=f"{where}.type")  # fmt: skip
    where = f"{where}.function"
    function = tool.get("function")
    if not isinstance(function, dict):
        raise missing(where) if function is None else wrong(where, "an object")
    name, description = function.get("name"), function.get("description") or ""
    if name is None:
        raise missing(f"{where}.name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise wrong(f"{where}.name", "1 to 64 letters, digits, '_' or '-'")
    if not isinstance(description, str):
        raise wrong(f"{where}.description", "a string")
    return name, description, _parameters(function.get("parameters"), name, f"{where}.parameters")


def _parameters(schema: Any, name: str, where: str) -> dict[str, Any]:
    if not schema and (schema is None or isinstance(schema, dict)):
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise wrong(where, "an object")
    if (kind := schema.get("type", "object")) != "object":
        raise _not_an_object(f"function '{name}'", kind, "invalid_function_parameters", where)
    return schema if "type" in schema else {"type": "object", **schema}


def _not_an_object(what: str, kind: Any, code: str, where: str) -> ApiError:
    return bad_request(f"Invalid schema for {what}: schema must be a JSON Schema of 'type: \"object\"', got "
                       f"'type: \"{kind}\"'.", code=code, param=where)  # fmt: skip


def choice(given: Any, names: Sequence[str]) -> tuple[str, list[str] | None]:
    """`tool_choice` among tools of these names: (`none` | `auto` | `required`, the only allowed names or None for all).

    Raises ApiError (400).
    """
    if given is None or isinstance(given, str):
        mode = given or "auto"
        if mode not in _CHOICES:
            raise bad_request(f"'tool_choice' is {mode!r}; it must be one of {', '.join(_CHOICES)}, or an object.",
                              code="invalid_value", param="tool_choice")  # fmt: skip
        if mode == "required" and not names:
            raise _without_tools()
        return mode, None
    if not isinstance(given, dict):
        raise wrong("tool_choice", "a string or an object")
    if not names:
        raise _without_tools()
    if given.get("type") == "function":
        return "required", [_chosen(given, names, "tool_choice")]
    if given.get("type") == "allowed_tools":
        return _allowed(given.get("allowed_tools"), names)
    raise bad_request(f"'tool_choice.type' is {given.get('type')!r}; it must be 'function' or 'allowed_tools'.",
                      code="unsupported_value", param="tool_choice.type")  # fmt: skip


def _without_tools() -> ApiError:
    return bad_request("Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
                       code="invalid_value", param="tool_choice")  # fmt: skip


def _chosen(given: Any, names: Sequence[str], where: str) -> str:
    function = given.get("function") if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise missing(f"{where}.function.name")
    if name not in names:
        raise bad_request(f"'{where}' names {name!r}, which is not among 'tools'.", code="invalid_value",
                          param=f"{where}.function.name")  # fmt: skip
    return name


def _allowed(given: Any, names: Sequence[str]) -> tuple[str, list[str]]:
    where = "tool_choice.allowed_tools"
    if not isinstance(given, dict) or not isinstance(given.get("tools"), list):
        raise missing(f"{where}.tools")
    mode = given.get("mode")
    if mode not in ("auto", "required"):
        raise bad_request(f"'{where}.mode' must be 'auto' or 'required'.", code="invalid_value", param=f"{where}.mode")
    return mode, [_chosen(tool, names, f"{where}.tools[{i}]") for i, tool in enumerate(given["tools"])]


def answer_schema(response_format: Any) -> dict[str, Any] | None:
    """The JSON Schema that the answer must meet; None: it is text. Raises ApiError (400)."""
    if response_format is None:
        return None
    if not isinstance(response_format, dict):
        raise wrong("response_format", "an object")
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        return _answer_schema(response_format.get("json_schema"))
    if kind is None:
        raise missing("response_format.type")
    raise bad_request(f"'response_format.type' is {kind!r}; it must be text, json_object or json_schema.",
                      code="unsupported_value", param="response_format.type")  # fmt: skip


def _answer_schema(given: Any) -> dict[str, Any]:
    where = "response_format.json_schema"
    if not isinstance(given, dict):
        raise missing(where) if given is None else wrong(where, "an object")
    schema = given.get("schema")
    if not isinstance(schema, dict):
        raise missing(f"{where}.schema") if schema is None else wrong(f"{where}.schema", "an object")
    if (kind := schema.get("type")) != "object":
        what = f"response_format '{given.get('name') or 'unnamed'}'"
        raise _not_an_object(what, kind, "invalid_json_schema", f"{where}.schema")
    return schema
