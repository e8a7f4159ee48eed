"""What a body of `/v1/messages` holds: the fields that mean something here, or whose lack of effect is told."""

from __future__ import annotations

from typing import Any

import msgspec


class Source(msgspec.Struct, frozen=True):
    """Where an image or a document comes from."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(msgspec.Struct, frozen=True):
    """One content block; which fields matter depends on its type."""

    type: str
    text: str | None = None
    source: Source | None = None
    title: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None


class Turn(msgspec.Struct, frozen=True):
    """One message."""

    role: str
    content: str | list[Block]


class OutputConfig(msgspec.Struct, frozen=True):
    """`output_config`: the form of the answer, and the effort."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class MessagesBody(msgspec.Struct, frozen=True):
    """`POST /v1/messages`."""

    messages: list[Turn]
    model: str = "claude-code"
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    conversation_id: str | None = None
    cache_control: Any = None
    container: Any = None
    context_management: Any = None
    inference_geo: str | None = None
    mcp_servers: list[Any] | None = None
    service_tier: str | None = None
    speed: str | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    @property
    def thoughts(self) -> bool:
        """Whether the answer shall tell what the model thinks."""
        return self.thinking is not None and self.thinking.get("type") != "disabled"
