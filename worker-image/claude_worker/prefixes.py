"""Histories by name: a hash that grows message by message, the same for what clients write in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from claude_worker.openai.request import Message

_BLANKS = b" \t\r\n\x0b\x0c"
EMPTY = "0" * 32
"""The hash of no messages at all: the root of all histories."""


def normalise(message: Message) -> bytes:
    """A message as it is hashed.

    Clients trim and re-join what they echo of an assistant, so its white space does not count; a user's only at the
    ends. Reasoning, names and cache marks do not count; images and files do, by their address or data.
    """
    content = message.content
    text = content if isinstance(content, str) else message.text()
    role = message.role
    if role == "assistant":
        data = text.encode("utf-8", "surrogatepass").translate(None, _BLANKS)
        if not message.tool_calls:
            return b"assistant\x00" + data
        calls = sorted(call.id for call in message.tool_calls)
        return "\x00".join(["assistant", *calls, ""]).encode("utf-8", "surrogatepass") + data
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    # As bytes, since only ASCII's white space is stripped.
    data = text.encode("utf-8", "surrogatepass").strip()
    if role == "user" and not isinstance(content, list):
        return b"user\x00" + data
    head = f"tool\x00{message.tool_call_id or ''}\x00" if role == "tool" else "user\x00"
    return b"\x00".join([head.encode() + data, *_attachments(message)])


def _attachments(message: Message) -> list[bytes]:
    if not isinstance(message.content, list):
        return []
    return [msgspec.json.encode(p) for p in message.content if p.type in ("image_url", "file")]


def step(prefix: str, message: Message) -> str:
    """The hash of `prefix` followed by one message."""
    return blake2b(prefix.encode() + normalise(message), digest_size=16).hexdigest()


def extend(prefix: str, messages: Sequence[Message]) -> str:
    """The hash of `prefix` followed by `messages`."""
    for message in messages:
        prefix = step(prefix, message)
    return prefix


def tidy(messages: Sequence[Message]) -> list[Message]:
    """The messages in one order: results of one message's calls sorted by id; empty assistant messages left out."""
    out: list[Message] = []
    run = 0
    for message in messages:
        role = message.role
        if role == "assistant" and not message.tool_calls and not message.text().strip():
            continue
        out.append(message)
        run = run + 1 if role == "tool" else 0
        if run > 1:
            out[-run:] = sorted(out[-run:], key=lambda m: m.tool_call_id or "")
    return out


def prefixes(messages: Sequence[Message]) -> list[str]:
    """The hash after each message, system messages left out."""
    found = []
    current = EMPTY
    for message in tidy([m for m in messages if m.role not in ("system", "developer")]):
        current = step(current, message)
        found.append(current)
    return found


def cut_text(text: str) -> str:
    """A cut-off answer's text as `Node.cut` keeps it."""
    return "".join(text.split())
