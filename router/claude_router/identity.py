"""Which conversation a request belongs to. Pure: headers and a decoded body in, an identity out.

In this order, an empty value counting as absent: the header `X-Conversation-ID`; the response that the request goes on
from; the model's suffix (`claude-code:my-conversation`); a client's own session header; `conversation_id` or
`metadata.conversation_id` in the body; else a new id, unless its history leads to one that was made up before
(`claude_router.matching`). With an `Idempotency-Key` the new id follows from the key, so that the same request again
finds the conversation, whichever router it comes to. Ids are compared as text and never percent-decoded, so no two of
them become one.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from claude_crds.names import CONVERSATION_ID_MAX
from claude_worker.openai.errors import bad_request
from claude_worker.openai.request import ChatRequest
from claude_worker.openai.responses import ResponsesRequest

Source = Literal["header", "previous", "model", "session-header", "body", "key", "generated", "history"]

ID_HEADER = b"x-conversation-id"
SESSION_HEADERS = (b"x-session-id", b"x-session-affinity")
"""What clients send of their own accord; opencode sends both, with the same value."""
KEY_HEADER = b"idempotency-key"

_CONTROLS = bytes([*range(0x20), 0x7F])
_ESCAPES = {chr(byte): f"%{byte:02X}" for byte in _CONTROLS}
_ESCAPE_TABLE = str.maketrans(_ESCAPES)


@dataclass(frozen=True, slots=True)
class Identity:
    """A conversation's id, the model name without its suffix, and where the id came from."""

    id: str
    model: str
    source: Source

    @property
    def made_up(self) -> bool:
        """Whether no client has chosen the id."""
        return self.source in ("key", "generated", "history")


def decode_id(raw: bytes) -> str:
    """An id from raw header or path bytes: UTF-8 if it is valid, else latin-1 (which is what old clients send)."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def header_value(conversation_id: str) -> bytes:
    """The id as a response header: its UTF-8 bytes, control characters percent-encoded (a header may not hold them)."""
    return conversation_id.translate(_ESCAPE_TABLE).encode("utf-8", "surrogatepass")


def checked(conversation_id: str, param: str) -> str:
    """The id itself. Raises ApiError (400) naming `param` when it is too long."""
    if len(conversation_id) > CONVERSATION_ID_MAX:
        raise bad_request(
            f"The conversation id in '{param}' has {len(conversation_id)} characters;"
            f" at most {CONVERSATION_ID_MAX} are allowed.",
            code="conversation_id_too_long",
            param=param,
        )
    return conversation_id


def from_header(headers: Mapping[bytes, bytes]) -> str:
    """The id in `X-Conversation-ID`, or "": known before the body is, so that errors about the body can carry it."""
    raw = headers.get(ID_HEADER)
    return checked(decode_id(raw), "X-Conversation-ID") if raw else ""


def split_model(model: str) -> tuple[str, str]:
    """`claude-code:my-conversation` → ("claude-code", "my-conversation"); no suffix: (model, "")."""
    base, _, suffix = model.partition(":")
    return base, suffix


def _from_body(request: ChatRequest) -> str:
    if request.conversation_id:
        return checked(request.conversation_id, "conversation_id")
    value: Any = (request.metadata or {}).get("conversation_id") or ""
    if not isinstance(value, str):
        raise bad_request(
            "Invalid value for 'metadata.conversation_id': expected a string.",
            code="invalid_type",
            param="metadata.conversation_id",
        )
    return checked(value, "metadata.conversation_id")


def _from_key(tenant: str, key: bytes) -> str:
    # With the length, no two pairs are one text.
    return "conv_" + hashlib.sha256(b"%d:%b%b" % (len(tenant.encode()), tenant.encode(), key)).hexdigest()[:32]


def identify(headers: Mapping[bytes, bytes], request: ChatRequest, tenant: str) -> Identity:
    """The identity of a request. `headers` has lower-case names. Raises ApiError (400)."""
    model, suffix = split_model(request.model)
    if found := from_header(headers):
        return Identity(found, model, "header")
    if isinstance(request, ResponsesRequest) and (found := request.previous_conversation):
        return Identity(checked(found, "previous_response_id"), model, "previous")
    if suffix:
        return Identity(checked(suffix, "model"), model, "model")
    for name in SESSION_HEADERS:
        if raw := headers.get(name):
            return Identity(checked(decode_id(raw), name.decode()), model, "session-header")
    if found := _from_body(request):
        return Identity(found, model, "body")
    if key := headers.get(KEY_HEADER):
        return Identity(_from_key(tenant, key), model, "key")
    return Identity(f"conv_{uuid.uuid4().hex}", model, "generated")
