"""Response ids: `resp_<conversation>_<turn>`, so that `previous_response_id` finds both though nothing is stored."""

from __future__ import annotations

import base64
import binascii
import re

from claude_worker.openai.errors import bad_request

_ID = re.compile(r"resp_([A-Za-z0-9_-]*)_([0-9a-f]{32})")


def response_id(conversation: str, turn: str) -> str:
    """The id of the response that a turn (its uuid as 32 hex digits) gives."""
    named = base64.urlsafe_b64encode(conversation.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()
    return f"resp_{named}_{turn}"


def previous_response(given: str) -> tuple[str, str]:
    """Conversation and turn of a response id. Raises ApiError (400) for one that was not given here."""
    if found := _ID.fullmatch(given):
        try:
            raw = base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4))
            return raw.decode("utf-8", "surrogatepass"), found[2]
        except (binascii.Error, UnicodeDecodeError):
            pass
    shown = given if len(given) <= 100 else given[:100] + "…"
    raise bad_request(f"Previous response with id '{shown}' not found.", code="previous_response_not_found",
                      param="previous_response_id")  # fmt: skip
