"""A chat completion request: decoded once, checked completely, unknown fields accepted.

`parse` is what both router and worker call, so both refuse the same requests with the same error object. What each
field does: docs/openai-conformance.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from claude_worker.decoding import BodyDecoder
from claude_worker.openai.errors import bad_request
from claude_worker.openai.messages import (
    CallFunction,
    CallPart,
    FileData,
    ImageUrl,
    Message,
    Part,
    check_last,
    check_messages,
)
from claude_worker.openai.tools import answer_schema, choice, functions

if TYPE_CHECKING:
    from claude_worker.bridge import ClientTool

__all__ = [
    "MAX_BODY_BYTES",
    "CallFunction",
    "CallPart",
    "ChatRequest",
    "FileData",
    "ImageUrl",
    "Message",
    "Part",
    "StreamOptions",
    "parse",
]

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Default limit of a request's body."""


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """`POST /v1/chat/completions`. Fields without effect are here so that the answer can name them."""

    messages: list[Message]
    model: str = "claude-code"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: list[Any] | None = None
    conversation_id: str | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    moderation: Any = None
    web_search_options: Any = None
    service_tier: str | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    functions: Any = None
    function_call: Any = None
    previous: str | None = None
    """The turn that this request goes on from, by its uuid (hex). For APIs that name it; never from a chat's body."""
    unknown: tuple[str, ...] = ()
    """Names of the body's fields that are none of these. Set by `parse`; never from a body."""

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def system_text(self) -> str:
        """The system and developer messages' text, in order, joined by blank lines."""
        return "\n\n".join(t for m in self.messages if m.role in ("system", "developer") if (t := m.text()))

    def turns(self) -> list[Message]:
        """The messages without system and developer ones."""
        return [m for m in self.messages if m.role not in ("system", "developer")]

    def client_tools(self) -> tuple[ClientTool, ...]:
        """The tools that the model may call at the client. Raises ApiError (400).

        `tools` and `tool_choice` are checked here and not by `parse`: a model name that leaves the client's tools aside
        takes them in any form.
        """
        from claude_worker.bridge import ClientTool  # noqa: PLC0415 - the router has no use for it

        if self.tools is None and self.tool_choice is None:
            return ()
        found = functions(self.tools or ())
        mode, allowed = choice(self.tool_choice, [name for name, _, _ in found])
        if mode == "none":
            return ()
        return tuple(ClientTool(*tool) for tool in found if allowed is None or tool[0] in allowed)

    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema that the answer must meet; None: it is text. Raises ApiError (400)."""
        return answer_schema(self.response_format)


_decoder = BodyDecoder(ChatRequest)


def _decode(body: bytes) -> ChatRequest:
    """Raises ApiError (400)."""
    request, unknown = _decoder.decode(body)
    if request.previous is not None or request.unknown:
        unknown += ("previous",) * (request.previous is not None) + ("unknown",) * bool(request.unknown)
    return msgspec.structs.replace(request, previous=None, unknown=unknown) if unknown else request


_REFUSED = {
    "logprobs": "Log probabilities are not available.",
    "top_logprobs": "Log probabilities are not available.",
    "audio": "Audio is not supported.",
    "moderation": "Moderation is not available.",
    "functions": "'functions' is deprecated and not supported; use 'tools'.",
    "function_call": "'function_call' is deprecated and not supported; use 'tools' and 'tool_choice'.",
}
"""Fields whose effect the client would miss: ignoring them would give it a wrong answer."""


def _check_fields(request: ChatRequest) -> None:
    if request.n not in (None, 1):
        raise bad_request("'n' must be 1: a conversation has one continuation.", code="unsupported_value", param="n")
    if request.modalities and request.modalities != ["text"]:
        raise bad_request("'modalities' must be [\"text\"].", code="unsupported_value", param="modalities")
    if (
        request.logprobs
        or request.top_logprobs
        or request.audio is not None
        or request.moderation is not None
        or request.functions is not None
        or request.function_call is not None
    ):
        name = next(n for n in _REFUSED if (v := getattr(request, n)) is not None and (v or "logprobs" not in n))
        raise bad_request(_REFUSED[name], code="unsupported_parameter", param=name)
    if request.response_format is not None:
        request.schema()


def parse(body: bytes) -> ChatRequest:
    """Decode and check a request's body.

    Raises ApiError (400): malformed JSON, invalid UTF-8, not an object, missing or empty `messages`, wrong types,
    unknown role or part, what cannot be honoured and must not be ignored, last message neither the user's nor the
    results of all the tool calls before it.
    """
    request = _decode(body)
    check_messages(request.messages)
    _check_fields(request)
    check_last(request.messages)
    return request
