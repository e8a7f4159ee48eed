"""From OpenAI messages to the content blocks of a prompt for the CLI. Pure; all of it raises ApiError (400)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Any

from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.messages import FileData, Message, Part

Block = dict[str, Any]

IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
PDF = "application/pdf"

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.IGNORECASE | re.ASCII)
_HEAD = 512
"""Within so many characters of a data URI its data begins."""
_CONTEXT = (
    "<conversation_so_far>\nThis conversation was begun elsewhere; these are its messages, oldest first.\n\n{}\n"
    "</conversation_so_far>"
)


def prompt_blocks(new: Sequence[Message], context: Sequence[Message] = ()) -> list[Block]:
    """The blocks of one prompt: `context` as prose in front, with its images and files, then the new messages.

    With `context` the CLI does not know the calls that tool results among `new` answer, so those are told as well.
    """
    prose = _Prose()
    for message in context:
        prose.tell(message)
    blocks = prose.blocks()
    for message in new:
        if message.role == "user":
            blocks += message_blocks(message)
        elif message.role == "tool" and not context:
            blocks.append(tool_result_block(message))
        else:
            later = _Prose(prose)
            later.tell(message)
            blocks += [_text("\n\n".join(later.told)), *later.attachments]
    return blocks


def message_blocks(message: Message) -> list[Block]:
    """The blocks of a message's content. Blank texts are left out: the model's API refuses them."""
    if not isinstance(message.content, list):
        text = message.text()
        return [_text(text)] if text.strip() else []
    blocks = [_block(part) for part in message.content]
    return [block for block in blocks if block["type"] != "text" or block["text"].strip()]


def tool_result_block(message: Message) -> Block:
    """The result that a `tool` message brings, for a prompt that follows the call."""
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message_blocks(message)}


def mcp_content(message: Message) -> list[dict[str, Any]]:
    """The same result as MCP content, the answer to a `tools/call`."""
    return [_mcp(block) for block in message_blocks(message)]


def _mcp(block: Block) -> dict[str, Any]:
    if block["type"] == "image":
        return {"type": "image", "data": block["source"]["data"], "mimeType": block["source"]["media_type"]}
    return block


class _Prose:
    """Messages told as text: who said what, what was called and what came of it; images and files by reference."""

    def __init__(self, before: _Prose | None = None) -> None:
        self.told: list[str] = []
        self.attachments: list[Block] = []
        self._calls: dict[str, str] = before._calls if before else {}
        self._counts: dict[str, int] = before._counts if before else {}

    def tell(self, message: Message) -> None:
        said = [message.text()] if not message.parts else [self._part(part) for part in message.parts]
        text = "\n".join(piece for piece in said if piece)
        if message.role == "tool":
            name = self._calls.get(message.tool_call_id or "", "a tool")
            self.told.append(f"result of {name} ({message.tool_call_id}): {text}")
            return
        calls = message.tool_calls or ()
        if text or not calls:
            self.told.append(f"{message.role}: {text}")
        for call in calls:
            self._calls[call.id] = call.function.name
            self.told.append(f"{message.role} called {call.function.name} ({call.id}): {call.function.arguments}")

    def _part(self, part: Part) -> str:
        if part.type in ("text", "refusal"):
            return part.text or part.refusal or ""
        kind = "image" if part.type == "image_url" else "file"
        self._counts[kind] = number = self._counts.get(kind, 0) + 1
        reference = f"[{kind} {number}]"
        self.attachments += [_text(f"{reference}:"), _block(part)]
        return reference

    def blocks(self) -> list[Block]:
        return [_text(_CONTEXT.format("\n\n".join(self.told))), *self.attachments] if self.told else []


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _block(part: Part) -> Block:
    if part.image_url is not None:
        return _image(part.image_url.url)
    if part.file is not None:
        return _file(part.file)
    return _text(part.text or part.refusal or "")


def _image(url: str) -> Block:
    if is_remote(url):
        raise remote_not_allowed()
    found = _split(url)
    if found is None or found[0] not in IMAGE_TYPES:
        raise bad_request("An image must be an http(s) address or a base64 data: URI of png, jpeg, gif or webp.",
                          code="invalid_image", param="messages")  # fmt: skip
    media_type, data = found
    raw = _decoded(data, "image")
    if not raw:
        raise bad_request("The image is empty.", code="invalid_image", param="messages")
    return _base64_image(data, raw, media_type)


def _base64_image(data: str, raw: bytes, declared: str) -> Block:
    # Clients name the wrong type often, and the model's API refuses what is not of the type that it was told.
    media_type = image_type(raw) or declared
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _file(file: FileData) -> Block:
    given = file.file_data or ""
    declared, data = _split(given) or ("", _unspaced(given))
    raw = _decoded(data, "file")
    name = file.filename or "file"
    if raw.startswith(b"%PDF-") or declared == PDF:
        source = {"type": "base64", "media_type": PDF, "data": data}
        return {"type": "document", "source": source, "title": name}
    if image_type(raw):
        return _base64_image(data, raw, "")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        raise bad_request(f"The file {name!r} is neither text (UTF-8) nor a PDF nor an image.",
                          code="unsupported_file", param="messages")  # fmt: skip
    return _text(f"[file: {name}]\n{text}\n[end of file: {name}]")


def remote_not_allowed() -> ApiError:
    """The refusal of an image at an http(s) address."""
    return bad_request("Images at remote addresses are not allowed here; send the image as a base64 data: URI.",
                       code="remote_image_not_allowed", param="messages")  # fmt: skip


def is_remote(url: str) -> bool:
    """An http(s) address."""
    return url[:8].lower().startswith(("http://", "https://"))


def image_type(data: bytes) -> str | None:
    """The media type of an image, by how its bytes begin; None: not one that the model takes."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _split(uri: str) -> tuple[str, str] | None:
    """Media type and base64 text of a data URI; None: it is none, or not base64."""
    found = _DATA_URI.match(uri[:_HEAD])
    if found is None or not found[3]:
        return None
    media_type = (found[1] or "text/plain").lower()
    return "image/jpeg" if media_type == "image/jpg" else media_type, _unspaced(uri[found.end() :])


def _unspaced(text: str) -> str:
    return "".join(text.split())


def _decoded(data: str, what: str) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise _not_base64(what) from error


def _not_base64(what: str) -> ApiError:
    return bad_request(f"The data of the {what} is not valid base64.", code=f"invalid_{what}", param="messages")
