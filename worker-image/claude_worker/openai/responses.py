"""A request to `/v1/responses`: OpenAI's newer API, read into the same `ChatRequest` as a chat completion."""

from __future__ import annotations

from typing import Any

from claude_worker.assembly import Assembly, call_part, file_part, image_part, text_part
from claude_worker.decoding import BodyDecoder
from claude_worker.openai import fields
from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.messages import Part, missing
from claude_worker.openai.request import ChatRequest
from claude_worker.openai.response_ids import previous_response
from claude_worker.openai.responses_body import ConversationRef, InputPart, Item, ResponsesBody


class ResponsesRequest(ChatRequest, frozen=True, kw_only=True):
    """The request as the worker takes it, and as the client sent it."""

    source: ResponsesBody
    previous_conversation: str = ""
    """The conversation that `previous_response_id` names."""


_decoder = BodyDecoder(ResponsesBody)


def parse(body: bytes) -> ResponsesRequest:
    """Decode and check a request's body. Raises ApiError (400)."""
    source, unknown = _decoder.decode(body)
    _refuse(source)
    conversation, turn = "", None
    if source.previous_response_id:
        conversation, turn = previous_response(source.previous_response_id)
    named = source.conversation.id if isinstance(source.conversation, ConversationRef) else source.conversation
    form = source.text.format if source.text else None
    request = ResponsesRequest(
        messages=_assembled(source).messages(answers_earlier=turn is not None),
        tools=None if source.tools is None else [_tool(tool) for tool in source.tools],
        tool_choice=_choice(source.tool_choice),
        response_format=None if form is None else _format(form),
        reasoning_effort=source.reasoning.effort if source.reasoning else None,
        conversation_id=named or source.conversation_id,
        previous=turn,
        unknown=unknown,
        source=source,
        previous_conversation=conversation,
        **{name: getattr(source, name) for name in _SAME},
    )
    request.schema()
    return request


_SAME = (
    "model", "stream", "metadata", "parallel_tool_calls", "temperature", "top_p", "service_tier", "store", "user",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
)  # fmt: skip
"""Fields that are called the same, and mean the same, in both APIs."""

_RENAMED = {"reasoning_effort": "reasoning.effort", "tools.function.strict": "tools.strict", "metadata": ""}
"""How this API calls what has no effect. `metadata` has one: the answer repeats it."""

_WITHOUT_EFFECT: dict[str, Any] = {
    "max_output_tokens": None, "max_tool_calls": None, "include": [], "context_management": [], "moderation": None,
    "truncation": "disabled",
}  # fmt: skip
"""This API's own fields that have none, each with the value that asks for nothing."""


def ignored(request: ResponsesRequest, *, own_tools_only: bool) -> list[str]:
    """The names of what the client sent and what has no effect."""
    source = request.source
    shared = (_RENAMED.get(name, name) for name in fields.ignored(request, own_tools_only=own_tools_only))
    names = [name for name in shared if name]
    names += [n for n, nothing in _WITHOUT_EFFECT.items() if (v := getattr(source, n)) is not None and v != nothing]
    if source.text and source.text.verbosity not in (None, "medium"):
        names.append("text.verbosity")
    return names


def _refuse(source: ResponsesBody) -> None:
    """What would change the answer's meaning if it were ignored."""
    if source.background:
        raise _unsupported("background", "answers are not made in the background")
    if source.prompt is not None:
        raise _unsupported("prompt", "there are no stored prompt templates")
    if source.top_logprobs:
        raise _unsupported("top_logprobs", "the model gives no log probabilities")
    if source.conversation is not None and source.previous_response_id:
        raise bad_request("'conversation' and 'previous_response_id' cannot be used together.",
                          code="mutually_exclusive_parameters", param="conversation")  # fmt: skip


def _unsupported(param: str, why: str) -> ApiError:
    return bad_request(f"'{param}' is not supported: {why}.", code="unsupported_parameter", param=param)


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    if choice.get("type") == "allowed_tools" and "allowed_tools" not in choice:
        allowed = choice.get("tools")
        tools = [_choice(tool) for tool in allowed] if isinstance(allowed, list) else allowed
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": tools}}
    return choice


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type" and v is not None}}


def _format(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type") != "json_schema":
        return given
    return {"type": "json_schema", "json_schema": {k: v for k, v in given.items() if k != "type"}}


def _assembled(source: ResponsesBody) -> Assembly:
    assembly = Assembly("input")
    if source.instructions:
        assembly.add("system", source.instructions, "instructions")
    if isinstance(source.input, str):
        assembly.add("user", source.input, "input")
        return assembly
    for i, item in enumerate(source.input):
        _add(assembly, item, f"input[{i}]")
    return assembly


def _add(assembly: Assembly, item: Item, where: str) -> None:
    if item.type == "message":
        _add_message(assembly, item, where)
    elif item.type == "function_call":
        call_id, name = _needed(item, "call_id", where), _needed(item, "name", where)
        assembly.assistant("", [call_part(call_id, name, _needed(item, "arguments", where))], where)
    elif item.type == "function_call_output":
        output = item.output
        if output is None:
            raise missing(f"{where}.output")
        content = output if isinstance(output, str) else _parts(output, f"{where}.output")
        assembly.tool(_needed(item, "call_id", where), content, where)
    elif item.type == "item_reference" and not (item.id or "").startswith("rs_"):
        raise bad_request(f"'{where}' refers to an item, and items are not stored; send the item itself (clients do"
                          " with 'store': false).", code="unsupported_item", param=f"{where}.type")  # fmt: skip
    elif item.type not in ("reasoning", "item_reference"):  # what the model thought is no part of the history
        raise bad_request(f"'{where}.type' is {item.type!r}; it must be message, function_call, function_call_output"
                          " or reasoning.", code="unsupported_item", param=f"{where}.type")  # fmt: skip


def _add_message(assembly: Assembly, item: Item, where: str) -> None:
    role = _needed(item, "role", where)
    if item.content is None:
        raise missing(f"{where}.content")
    if role == "assistant":
        parts = [] if isinstance(item.content, str) else item.content
        text = item.content if isinstance(item.content, str) else "".join(p.text or p.refusal or "" for p in parts)
        assembly.assistant(text, [], where)
    else:
        content = item.content if isinstance(item.content, str) else _parts(item.content, f"{where}.content")
        assembly.add(role, content, where)


def _needed(item: Item, name: str, where: str) -> str:
    value: str | None = getattr(item, name)
    if value is None:
        raise missing(f"{where}.{name}")
    return value


def _parts(parts: list[InputPart], where: str) -> list[Part]:
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(parts)]


def _part(part: InputPart, where: str) -> Part:
    if part.type in ("input_text", "output_text", "text") and part.text is not None:
        return text_part(part.text)
    if part.type == "input_image" and part.image_url:
        return image_part(part.image_url)
    if part.type == "input_file" and part.file_data:
        return file_part(part.filename, part.file_data)
    if part.type in ("input_image", "input_file"):
        raise bad_request(f"'{where}' must hold its data ('image_url' or 'file_data'); files are not stored here.",
                          code="unsupported_content", param=where)  # fmt: skip
    raise bad_request(f"'{where}.type' is {part.type!r}; it must be input_text, input_image or input_file.",
                      code="unsupported_content", param=f"{where}.type")  # fmt: skip
