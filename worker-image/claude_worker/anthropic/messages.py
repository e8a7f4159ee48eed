"""A request to `/v1/messages`, read into the same `ChatRequest` as a chat completion."""

from __future__ import annotations

from typing import Any

import msgspec

from claude_worker.anthropic.body import Block, MessagesBody, Source
from claude_worker.assembly import Assembly, call_part, file_part, image_part, text_part
from claude_worker.decoding import BodyDecoder
from claude_worker.openai import fields
from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.messages import CallPart, Part, missing
from claude_worker.openai.request import ChatRequest


class MessagesRequest(ChatRequest, frozen=True, kw_only=True):
    """The request as the worker takes it, and as the client sent it."""

    source: MessagesBody


_decoder = BodyDecoder(MessagesBody)


def parse(body: bytes) -> MessagesRequest:
    """Decode and check a request's body. Raises ApiError (400)."""
    source, unknown = _decoder.decode(body)
    if source.container is not None or source.mcp_servers:
        name = "container" if source.container is not None else "mcp_servers"
        raise bad_request(f"'{name}' is not supported.", code="unsupported_parameter", param=name)
    choice = source.tool_choice
    form = (source.output_config.format if source.output_config else None) or source.output_format
    request = MessagesRequest(
        messages=_assembled(source).messages(),
        model=source.model,
        stream=source.stream,
        tools=None if source.tools is None else [_tool(tool) for tool in source.tools],
        tool_choice=None if choice is None else _choice(choice),
        parallel_tool_calls=False if choice and choice.get("disable_parallel_tool_use") is True else None,
        response_format=None if form is None else _format(form),
        reasoning_effort=source.output_config.effort if source.output_config else None,
        metadata=source.metadata,
        conversation_id=source.conversation_id,
        temperature=source.temperature,
        top_p=source.top_p,
        service_tier=source.service_tier,
        max_tokens=source.max_tokens,
        unknown=unknown,
        source=source,
    )
    request.schema()
    return request


_RENAMED = {
    "reasoning_effort": "output_config.effort", "tools.function.strict": "tools.strict",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}  # fmt: skip
_WITHOUT_EFFECT: dict[str, Any] = {
    "stop_sequences": [], "top_k": None, "context_management": None, "inference_geo": None, "speed": "standard",
}  # fmt: skip
"""This API's own fields that have no effect, each with the value that asks for nothing."""


def ignored(request: MessagesRequest, *, own_tools_only: bool) -> list[str]:
    """The names of what the client sent and what has no effect."""
    source = request.source
    names = [_RENAMED.get(name, name) for name in fields.ignored(request, own_tools_only=own_tools_only)]
    names += [n for n, nothing in _WITHOUT_EFFECT.items() if (v := getattr(source, n)) is not None and v != nothing]
    return names


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function tool as OpenAI writes it; one of Anthropic's own tools as it is."""
    if tool.get("type") not in (None, "custom"):
        return tool
    named = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool.get("input_schema")}
    return {"type": "function", "function": {k: v for k, v in named.items() if v is not None}}


def _choice(choice: dict[str, Any]) -> str | dict[str, Any]:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind not in ("auto", "any", "none"):
        raise bad_request(f"'tool_choice.type' is {kind!r}; it must be auto, any, tool or none.", code="invalid_value",
                          param="tool_choice.type")  # fmt: skip
    return "required" if kind == "any" else str(kind)


def _format(form: dict[str, Any]) -> dict[str, Any]:
    return {"type": form.get("type"), "json_schema": {"name": "output", "schema": form.get("schema")}}


def _assembled(source: MessagesBody) -> Assembly:
    assembly = Assembly("messages")
    if isinstance(source.system, str):
        if source.system:
            assembly.add("system", source.system, "system")
    elif source.system:
        assembly.add("system", [_part(b, f"system[{i}]") for i, b in enumerate(source.system)], "system")
    for i, message in enumerate(source.messages):
        where = f"messages[{i}]"
        if message.role not in ("user", "assistant", "system"):
            raise bad_request(f"'{where}.role' is {message.role!r}; it must be user or assistant.", code="invalid_role",
                              param=f"{where}.role")  # fmt: skip
        if isinstance(message.content, str):
            if message.role == "assistant":
                assembly.assistant(message.content, [], where)
            else:
                assembly.add(message.role, message.content, where)
        elif message.role == "assistant":
            _add_assistant(assembly, message.content, where)
        else:
            _add_user(assembly, message.role, message.content, where)
    return assembly


def _add_assistant(assembly: Assembly, blocks: list[Block], where: str) -> None:
    texts: list[str] = []
    calls: list[CallPart] = []
    for i, block in enumerate(blocks):
        at = f"{where}.content[{i}]"
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "tool_use":
            if not block.id or not block.name:
                raise missing(f"{at}.id" if not block.id else f"{at}.name")
            arguments = msgspec.json.encode({} if block.input is None else block.input).decode()
            calls.append(call_part(block.id, block.name, arguments))
        elif block.type not in ("thinking", "redacted_thinking"):  # what the model thought is no part of the history
            raise _unsupported(block, at, "text, tool_use or thinking")
    assembly.assistant("".join(texts), calls, where)


def _add_user(assembly: Assembly, role: str, blocks: list[Block], where: str) -> None:
    """Results of calls first, as they answer the message before; what the user says beside them follows."""
    parts: list[Part] = []
    for i, block in enumerate(blocks):
        at = f"{where}.content[{i}]"
        if block.type == "tool_result":
            if not block.tool_use_id:
                raise missing(f"{at}.tool_use_id")
            assembly.tool(block.tool_use_id, _result(block, at), at)
        else:
            parts.append(_part(block, at))
    if parts or not blocks:
        assembly.add(role, parts, where)


def _result(block: Block, where: str) -> str | list[Part]:
    blocks = block.content
    if not isinstance(blocks, list):
        return f"<tool_use_error>{blocks or ''}</tool_use_error>" if block.is_error else blocks or ""
    parts = [_part(b, f"{where}.content[{i}]") for i, b in enumerate(blocks)]
    if block.is_error:  # as Claude Code marks the errors of its own tools
        parts = [text_part("<tool_use_error>"), *parts, text_part("</tool_use_error>")]
    return parts


def _part(block: Block, where: str) -> Part:
    if block.type == "text" and block.text is not None:
        return text_part(block.text)
    if block.type == "image" and block.source is not None:
        if block.source.type == "url" and block.source.url:
            return image_part(block.source.url)
        return image_part(_data_uri(block.source, where))
    if block.type == "document" and block.source is not None:
        if block.source.type == "text":
            title = f"{block.title}\n\n" if block.title else ""
            return text_part(title + (block.source.data or ""))
        return file_part(block.title or "document.pdf", _data_uri(block.source, where))
    raise _unsupported(block, where, "text, image, document or tool_result")


def _data_uri(source: Source, where: str) -> str:
    if source.type != "base64" or not source.media_type or not source.data:
        raise bad_request(f"'{where}.source' must hold its data as base64.", code="unsupported_content",
                          param=f"{where}.source")  # fmt: skip
    return f"data:{source.media_type};base64,{source.data}"


def _unsupported(block: Block, where: str, allowed: str) -> ApiError:
    return bad_request(f"'{where}.type' is {block.type!r}; it must be {allowed}, and whole.",
                       code="unsupported_content", param=f"{where}.type")  # fmt: skip
