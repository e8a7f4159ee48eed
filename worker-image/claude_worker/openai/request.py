"""A chat completion request: decoded once, checked completely, unknown fields accepted.

`parse` is what both router and worker call, so both refuse the same requests with the same error object.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from claude_worker.openai.errors import ApiError, bad_request

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Default limit of a request's body."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class ImageUrl(msgspec.Struct, frozen=True):
    """`image_url` of a content part: a `data:` URI or an http(s) address."""

    url: str


class Part(msgspec.Struct, frozen=True):
    """One content part."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None


class Message(msgspec.Struct, frozen=True):
    """One message. `content` is text, a list of parts, or null (an assistant message with tool calls)."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """The message's text parts, joined by newlines."""
        if isinstance(self.content, list):
            return "\n".join(p.text or p.refusal or "" for p in self.content if p.type in ("text", "refusal"))
        return self.content or ""


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """`POST /v1/chat/completions`: the fields that mean something here."""

    messages: list[Message]
    model: str = "claude-code"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: list[Any] | None = None
    conversation_id: str | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def system_text(self) -> str:
        """The system and developer messages' text, in order, joined by blank lines."""
        return "\n\n".join(t for m in self.messages if m.role in ("system", "developer") if (t := m.text()))

    def turns(self) -> list[Message]:
        """The messages without system and developer ones."""
        return [m for m in self.messages if m.role not in ("system", "developer")]


_decoder = msgspec.json.Decoder(ChatRequest)
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def _from_validation(error: msgspec.ValidationError) -> ApiError:
    text = str(error)
    found = _PATH.search(text)
    path = found[1] if found else None
    message = text[: found.start()] if found else text
    if path is None and "`object`" in message:
        return bad_request(f"The body must be a JSON object. {message}.", code="invalid_body")
    if "missing required field `messages`" in message:
        return bad_request("'messages' is required.", code="missing_required_parameter", param="messages")
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        where = f"{path}.{missing[1]}" if path else missing[1]
        return bad_request(f"'{where}' is required.", code="missing_required_parameter", param=where)
    return bad_request(
        f"Invalid value for '{path}': {message[0].lower()}{message[1:]}.", code="invalid_type", param=path
    )


def _check_message(message: Message, where: str) -> None:
    if message.role not in ROLES:
        allowed = ", ".join(ROLES)
        raise bad_request(f"'{where}.role' is {message.role!r}; it must be one of {allowed}.", code="invalid_role",
                          param=f"{where}.role")  # fmt: skip
    if message.content is None and message.role != "assistant":
        raise bad_request(f"'{where}.content' is required for role {message.role!r}.", code="missing_content",
                          param=f"{where}.content")  # fmt: skip
    if isinstance(message.content, list):
        for j, part in enumerate(message.content):
            _check_part(part, f"{where}.content[{j}]")


def _check_part(part: Part, where: str) -> None:
    given = {"text": part.text, "refusal": part.refusal, "image_url": part.image_url}
    if part.type not in given:
        raise bad_request(f"'{where}.type' is {part.type!r}; it must be text, image_url or refusal.",
                          code="unsupported_content", param=f"{where}.type")  # fmt: skip
    if given[part.type] is None:
        raise bad_request(f"'{where}.{part.type}' is required.", code="missing_required_parameter",
                          param=f"{where}.{part.type}")  # fmt: skip


def parse(body: bytes) -> ChatRequest:
    """Decode and check a request's body.

    Raises ApiError (400): malformed JSON, invalid UTF-8, not an object, missing or empty `messages`, wrong types,
    unknown role or part, `n` other than 1, last message not from the user.
    """
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _from_validation(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not request.messages:
        raise bad_request("'messages' must hold at least one message.", code="empty_messages", param="messages")
    for i, message in enumerate(request.messages):
        _check_message(message, f"messages[{i}]")
    if request.n not in (None, 1):
        raise bad_request("'n' must be 1: a conversation has one continuation.", code="unsupported_value", param="n")
    last = request.messages[-1]
    where = f"messages[{len(request.messages) - 1}]"
    if last.role != "user":
        raise bad_request(f"The last message must have the role 'user'; it has {last.role!r}.",
                          code="last_message_not_user", param=f"{where}.role")  # fmt: skip
    if last.content is None or (isinstance(last.content, str) and not last.content.strip()) or last.content == []:
        raise bad_request("The last message is empty.", code="empty_message",
                          param=f"{where}.content")  # fmt: skip
    return request
