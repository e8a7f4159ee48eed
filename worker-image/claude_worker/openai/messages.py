"""The messages of a chat: what they are made of, and which are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from claude_worker.openai.errors import ApiError, bad_request

ROLES = ("system", "developer", "user", "assistant", "tool")
PART_TYPES = ("text", "image_url", "file", "refusal")

_SPOKEN = frozenset(("user", "system", "developer"))
_PARTS_OF_ROLE = {"system": ("text",), "developer": ("text",), "tool": ("text", "image_url")}


class ImageUrl(msgspec.Struct, frozen=True):
    """`image_url` of a content part: a `data:` URI or an http(s) address."""

    url: str
    detail: str | None = None


class FileData(msgspec.Struct, frozen=True):
    """`file` of a content part: base64 text or a `data:` URI. There is no store of files that an id could name."""

    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class Part(msgspec.Struct, frozen=True):
    """One content part."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None
    file: FileData | None = None


class CallFunction(msgspec.Struct, frozen=True):
    """`function` of a tool call; `arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class CallPart(msgspec.Struct, frozen=True):
    """One of the tool calls of an assistant message."""

    id: str
    type: str
    function: CallFunction


class Message(msgspec.Struct, frozen=True):
    """One message. `content` is text, a list of parts, or null (an assistant message with tool calls)."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    function_call: Any = None
    audio: Any = None

    def text(self) -> str:
        """The message's text parts, joined by newlines."""
        if isinstance(self.content, list):
            return "\n".join(p.text or p.refusal or "" for p in self.content if p.type in ("text", "refusal"))
        return self.content or self.refusal or ""

    @property
    def parts(self) -> list[Part]:
        """The content parts; none when the content is plain text."""
        return self.content if isinstance(self.content, list) else []


def missing(where: str) -> ApiError:
    """The refusal of a request that lacks the field at `where`."""
    return bad_request(f"'{where}' is required.", code="missing_required_parameter", param=where)


def check_messages(messages: Sequence[Message]) -> None:
    """Each message by itself. Raises ApiError (400)."""
    if not messages:
        raise bad_request("'messages' must hold at least one message.", code="empty_messages", param="messages")
    for i, m in enumerate(messages):
        # Plain text, which most messages are, needs no closer look.
        if type(m.content) is str and (
            m.role in _SPOKEN
            or (m.role == "assistant" and m.tool_calls is None and m.function_call is None and m.audio is None)
        ):
            continue
        _check_message(m, f"messages[{i}]")


def _check_message(message: Message, where: str) -> None:
    role = message.role
    if role == "function":
        raise bad_request("Messages with role 'function' are deprecated and not supported; use 'tool_calls' and role "
                          "'tool'.", code="invalid_role", param=f"{where}.role")  # fmt: skip
    if role not in ROLES:
        raise bad_request(f"'{where}.role' is {role!r}; it must be one of {', '.join(ROLES)}.", code="invalid_role",
                          param=f"{where}.role")  # fmt: skip
    if message.content is None and role != "assistant":
        raise bad_request(f"'{where}.content' is required for role {role!r}.", code="missing_content",
                          param=f"{where}.content")  # fmt: skip
    if role == "assistant":
        _check_assistant(message, where)
    if role == "tool" and not message.tool_call_id:
        raise missing(f"{where}.tool_call_id")
    for j, part in enumerate(message.parts):
        _check_part(part, role, f"{where}.content[{j}]")


def _check_assistant(message: Message, where: str) -> None:
    if message.function_call is not None:
        raise bad_request("'function_call' is deprecated and not supported; use 'tool_calls'.",
                          code="unsupported_parameter", param=f"{where}.function_call")  # fmt: skip
    if message.audio is not None:
        raise bad_request("Audio is not supported.", code="unsupported_content", param=f"{where}.audio")
    seen: set[str] = set()
    for j, call in enumerate(message.tool_calls or ()):
        at = f"{where}.tool_calls[{j}]"
        if call.type != "function":
            raise bad_request(f"'{at}.type' is {call.type!r}; it must be 'function'.", code="unsupported_value",
                              param=f"{at}.type")  # fmt: skip
        for name, value in (("id", call.id), ("function.name", call.function.name)):
            if not value:
                raise bad_request(f"'{at}.{name}' is empty.", code="invalid_value", param=f"{at}.{name}")
        if call.id in seen:
            raise bad_request(f"Duplicate value for 'tool_call_id' of '{call.id}'.", code="invalid_value",
                              param=f"{at}.id")  # fmt: skip
        seen.add(call.id)


def _check_part(part: Part, role: str, where: str) -> None:
    if part.type not in PART_TYPES:
        raise bad_request(f"'{where}.type' is {part.type!r}; it must be text, image_url, file or refusal.",
                          code="unsupported_content", param=f"{where}.type")  # fmt: skip
    if part.type not in (allowed := _PARTS_OF_ROLE.get(role, PART_TYPES)):
        raise bad_request(f"'{where}.type' is {part.type!r}; for role {role!r} it must be {' or '.join(allowed)}.",
                          code="unsupported_content", param=f"{where}.type")  # fmt: skip
    if getattr(part, part.type) is None:
        raise missing(f"{where}.{part.type}")
    if part.type == "file" and part.file is not None and part.file.file_data is None:
        if part.file.file_id is None:
            raise missing(f"{where}.file.file_data")
        raise bad_request("There are no stored files here; send the file itself as 'file_data'.",
                          code="unsupported_parameter", param=f"{where}.file.file_id")  # fmt: skip


def check_last(messages: Sequence[Message]) -> None:
    """The last message is the user's, or a tool's and answers what the assistant called. Raises ApiError (400)."""
    last = messages[-1]
    where = f"messages[{len(messages) - 1}]"
    if last.role == "tool":
        _check_results(messages)
    elif last.role != "user":
        raise bad_request(f"The last message must have the role 'user' or 'tool'; it has {last.role!r}.",
                          code="last_message_not_user", param=f"{where}.role")  # fmt: skip
    elif _is_empty(last):
        raise bad_request("The last message is empty.", code="empty_message",
                          param=f"{where}.content")  # fmt: skip


def _is_empty(message: Message) -> bool:
    if isinstance(message.content, list):
        return not any(p.image_url or p.file or (p.text or p.refusal or "").strip() for p in message.content)
    return not (message.content or "").strip()


def _check_results(messages: Sequence[Message]) -> None:
    """The tool messages at the end answer all calls of the assistant message right before them, each once."""
    at = len(messages)
    while at > 0 and messages[at - 1].role == "tool":
        at -= 1
    asked = messages[at - 1] if at > 0 else None
    calls = [c.id for c in asked.tool_calls or ()] if asked is not None and asked.role == "assistant" else []
    answered: set[str | None] = set()
    for i, message in enumerate(messages[at:], start=at):
        param = f"messages[{i}].tool_call_id"
        if not calls:
            raise bad_request("Invalid parameter: messages with role 'tool' must be a response to a preceding message "
                              "with 'tool_calls'.", code="invalid_value", param=f"messages[{i}].role")  # fmt: skip
        if message.tool_call_id not in calls:
            raise bad_request(f"Invalid parameter: 'tool_call_id' of '{message.tool_call_id}' not found in "
                              "'tool_calls' of previous message.", code="invalid_value", param=param)  # fmt: skip
        if message.tool_call_id in answered:
            raise bad_request(f"Duplicate value for 'tool_call_id' of '{message.tool_call_id}'.", code="invalid_value",
                              param=param)  # fmt: skip
        answered.add(message.tool_call_id)
    if open_ := [call for call in calls if call not in answered]:
        raise bad_request(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(open_)}",
            code="invalid_value", param=f"messages[{at - 1}].tool_calls",
        )  # fmt: skip
