"""From OpenAI messages to the content blocks of a prompt for the CLI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from claude_worker.openai.errors import bad_request
from claude_worker.openai.request import Message, Part

Block = dict[str, Any]

_DATA_URI = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/=\s]+)$")
_CONTEXT = (
    "<conversation_so_far>\nThis conversation was begun elsewhere; these are its messages, oldest first.\n\n{}\n"
    "</conversation_so_far>"
)


def prompt_blocks(new: Sequence[Message], context: Sequence[Message] = ()) -> list[Block]:
    """The blocks of one prompt: `context` as one text in front, then the new messages. Raises ApiError (400)."""
    blocks = [_text(_CONTEXT.format("\n\n".join(_told(m) for m in context)))] if context else []
    return blocks + [block for message in new for block in _message_blocks(message)]


def _told(message: Message) -> str:
    return f"{message.role}: {message.text()}"


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _message_blocks(message: Message) -> list[Block]:
    if not isinstance(message.content, list):
        return [_text(message.content or "")]
    return [_image(p) if p.image_url else _text(p.text or "") for p in message.content if p.image_url or p.text]


def _image(part: Part) -> Block:
    url = part.image_url.url if part.image_url else ""
    if found := _DATA_URI.match(url):
        return {
            "type": "image",
            "source": {"type": "base64", "media_type": found[1], "data": "".join(found[2].split())},
        }
    if url.startswith(("http://", "https://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise bad_request("An image must be an http(s) address or a base64 data: URI of png, jpeg, gif or webp.",
                      code="invalid_image", param="messages")  # fmt: skip
