"""What a body of `/v1/responses` holds: the fields that mean something here, or whose lack of effect is told."""

from __future__ import annotations

from typing import Any

import msgspec


class InputPart(msgspec.Struct, frozen=True):
    """One part of an item's content or output."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None


class Item(msgspec.Struct, frozen=True):
    """One item of `input`; which fields matter depends on its type."""

    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


class TextConfig(msgspec.Struct, frozen=True):
    """`text`: the form of the answer."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningConfig(msgspec.Struct, frozen=True):
    """`reasoning`: how much the model thinks, and whether the answer tells of it."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None

    @property
    def told(self) -> bool:
        return bool(self.summary or self.generate_summary)


class ConversationRef(msgspec.Struct, frozen=True):
    """`conversation` as an object."""

    id: str


class ResponsesBody(msgspec.Struct, frozen=True):
    """`POST /v1/responses`."""

    input: str | list[Item]
    model: str = "claude-code"
    stream: bool | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    conversation_id: str | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    background: bool | None = None
    context_management: list[Any] | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    moderation: Any = None
    prompt: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: float | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    truncation: str | None = None
    user: str | None = None
