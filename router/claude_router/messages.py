"""A worker's transcript, which is Claude Code's, as messages of OpenAI's chat API. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from claude_router.views import CallFunction, CallView, MessageView


class Line(msgspec.Struct):
    """One line of `GET /transcript`: a user's message, or one block of a message of the model."""

    role: str
    content: str | list[dict[str, Any]]
    uuid: str | None = None
    message_id: str | None = None


class Transcript(msgspec.Struct):
    """The worker's answer."""

    messages: list[Line]


def messages(lines: Iterable[Line]) -> list[MessageView]:
    """The messages, oldest first. The id of one of the model is that of its last block: there a fork can begin."""
    found: list[MessageView] = []
    begun: dict[str, MessageView] = {}
    for line in lines:
        blocks = [{"type": "text", "text": line.content}] if isinstance(line.content, str) else line.content
        if line.role != "assistant":
            found += _of_user(line.uuid or "", blocks)
            continue
        # With parallel tools, results come in between the blocks of one message.
        message = begun.get(line.message_id or "")
        if message is None:
            message = MessageView(line.uuid or "", "assistant", None)
            found.append(message)
            begun[line.message_id or line.uuid or ""] = message
        _add(message, line.uuid or "", blocks)
    return found


def _add(message: MessageView, uuid: str, blocks: list[dict[str, Any]]) -> None:
    message.id = uuid
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                message.content = (message.content or "") + text  # type: ignore[operator]
            case {"type": "thinking", "thinking": str(text)}:
                message.reasoning_content += text
            case {"type": "tool_use", "id": str(call), "name": str(name)}:
                arguments = msgspec.json.encode(block.get("input") or {}).decode()
                message.tool_calls.append(CallView(call, CallFunction(name, arguments)))


def _of_user(uuid: str, blocks: list[dict[str, Any]]) -> list[MessageView]:
    found, said = [], []
    for block in blocks:
        if block.get("type") == "tool_result":
            result = _text(block.get("content") or "")
            found.append(MessageView(uuid, "tool", result, tool_call_id=str(block.get("tool_use_id") or "")))
        else:
            said.append(_part(block))
    if said:
        texts = [part["text"] for part in said if part["type"] == "text"]
        found.append(MessageView(uuid, "user", "\n".join(texts) if len(texts) == len(said) else said))
    return found


def _part(block: dict[str, Any]) -> dict[str, Any]:
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "document", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return {"type": "file", "file": {"file_data": f"data:{kind};base64,{data}"}}
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return {"type": "text", "text": text}
    return {"type": "text", "text": f"[{block.get('type')}]"}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(str(p["text"]) if p.get("type") == "text" and "text" in p else f"[{p.get('type')}]" for p in parts)
