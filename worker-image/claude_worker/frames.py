"""The CLI's stream-json protocol: partial views of what it prints, and the lines it reads.

Only the fields that are used are decoded; everything else of a line is skipped without being built. Field names as
printed by CLI 2.1.330.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Delta(msgspec.Struct, frozen=True):
    """The delta of a `content_block_delta` or `message_delta`."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class Block(msgspec.Struct, frozen=True):
    """The block of a `content_block_start` or of an `assistant` frame."""

    type: str
    name: str = ""
    id: str = ""
    text: str = ""
    input: msgspec.Raw = msgspec.Raw(b"")


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a message or a turn; `input_tokens` is without the cached ones."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: dict[str, Any] | None = None


class MessageHead(msgspec.Struct, frozen=True):
    """The message of a `message_start`."""

    id: str = ""
    usage: Usage | None = None


class StreamEvent(msgspec.Struct, frozen=True):
    """A Messages API stream event, as the CLI passes it on."""

    type: str
    index: int = 0
    message: MessageHead | None = None
    delta: Delta | None = None
    content_block: Block | None = None
    usage: Usage | None = None


class ControlResponse(msgspec.Struct, frozen=True):
    """The answer to a control request of ours."""

    subtype: str
    request_id: str
    response: dict[str, Any] | None = None
    error: str | None = None


class Frame(msgspec.Struct, frozen=True):
    """One line of the CLI's standard output."""

    type: str
    subtype: str | None = None
    uuid: str | None = None
    session_id: str | None = None
    parent_tool_use_id: str | None = None
    # stream_event
    event: StreamEvent | None = None
    # assistant, user
    message: msgspec.Raw = msgspec.Raw(b"")
    # system
    state: str | None = None
    tasks: list[Any] | None = None
    claude_code_version: str | None = None
    error_status: int | None = None
    attempt: int | None = None
    # command_lifecycle
    command_uuid: str | None = None
    # control_request, control_response
    request_id: str | None = None
    request: dict[str, Any] | None = None
    response: ControlResponse | None = None
    # result
    is_error: bool = False
    api_error_status: int | None = None
    result: str | None = None
    errors: list[Any] | None = None
    stop_reason: str | None = None
    terminal_reason: str | None = None
    user_message_uuid: str | None = None
    origin: dict[str, Any] | None = None
    total_cost_usd: float | None = None
    usage: Usage | None = None
    structured_output: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(Frame)


class ToolResult(msgspec.Struct, frozen=True):
    """A `tool_result` block of a `user` frame."""

    type: str
    is_error: bool | None = False
    content: Any = None
    tool_use_id: str = ""


class AssistantMessage(msgspec.Struct, frozen=True):
    """The message of an `assistant` frame; `model` is `<synthetic>` when the CLI wrote it itself."""

    id: str = ""
    model: str = ""
    content: list[Block] = []
    usage: Usage | None = None


_assistant_decoder = msgspec.json.Decoder(AssistantMessage)


class _UserMessage(msgspec.Struct, frozen=True):
    content: str | list[ToolResult] | None = None


_user_decoder = msgspec.json.Decoder(_UserMessage)


def decode(line: bytes) -> Frame:
    """Decode one line. Raises msgspec.DecodeError (ValidationError included) when it is not a frame."""
    return _decoder.decode(line)


def assistant_message(frame: Frame) -> AssistantMessage:
    """The message of an `assistant` frame; empty when there is none."""
    try:
        return _assistant_decoder.decode(frame.message)
    except msgspec.DecodeError:
        return AssistantMessage()


def tool_results(frame: Frame) -> list[ToolResult]:
    """The tool results in a `user` frame."""
    if not bytes(frame.message):
        return []
    try:
        content = _user_decoder.decode(frame.message).content
    except msgspec.DecodeError:
        return []
    return [b for b in content if b.type == "tool_result"] if isinstance(content, list) else []


def user_message(content: list[dict[str, Any]], uuid: str, *, composed: bool = True) -> bytes:
    """A prompt. `content` is a list of Messages API blocks.

    `composed` makes the CLI take the text as written: no `@path` expansion, no slash commands.
    """
    message = {"role": "user", "content": content}
    return _line({
        "type": "user", "message": message, "uuid": uuid, "client_composed": composed,
        "parent_tool_use_id": None, "session_id": "default",
    })  # fmt: skip


def control_request(request_id: str, request: dict[str, Any]) -> bytes:
    """A control request, such as `{"subtype": "interrupt"}`."""
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def mcp_answer(request_id: str | None, message: dict[str, Any]) -> bytes:
    """The answer to a control request with an MCP message: the JSON-RPC response to it."""
    body = {"subtype": "success", "request_id": request_id, "response": {"mcp_response": message}}
    return _line({"type": "control_response", "response": body})


def control_answer(frame: Frame) -> bytes:
    """The answer to a control request that the CLI sent: a turn stalls until each has one."""
    request = frame.request or {}
    subtype = request.get("subtype")
    body: dict[str, Any] = {"request_id": frame.request_id}
    if subtype == "can_use_tool":
        denial = {"behavior": "deny", "message": "Nobody can be asked for permission in this session."}
        body |= {"subtype": "success", "response": denial}
    elif subtype == "hook_callback":
        body |= {"subtype": "success", "response": {}}
    else:
        body |= {"subtype": "error", "error": f"not supported by this host: {subtype}"}
    return _line({"type": "control_response", "response": body})


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
