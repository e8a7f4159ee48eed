"""What a request's headers say about it. Pure."""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.datastructures import Headers

from claude_worker.history import Hints
from claude_worker.openai.errors import bad_request

CLIENT_SESSION = "x-claude-client-session"
"""Set by the router when the conversation id came from a client's own session header."""

_KEY_MAX = 256
_SOME = re.compile(r"0*[1-9][0-9]*")


def hints_of(headers: Headers) -> Hints:
    """What they tell about its history, and whether it is a repetition."""
    sends = headers.get("x-claude-history", "")
    return Hints(
        client_session=CLIENT_SESSION in headers,
        retry=bool(_SOME.fullmatch(headers.get("x-stainless-retry-count", ""))),
        sends="full" if sends == "full" else "last" if sends == "last" else "",
    )


def keys_of(headers: Headers) -> list[str]:
    """The names by which a repetition of this request is known: the client's own, and the router's."""
    named = headers.get("idempotency-key", "")
    router = headers.get("x-claude-request", "")
    return ([f"client:{named[:_KEY_MAX]}"] if named else []) + ([f"router:{router[:_KEY_MAX]}"] if router else [])


def conversation_of(headers: Headers) -> str:
    """The conversation's id, as the router percent-encodes it. Raises ApiError (400)."""
    try:
        return unquote(headers.get("x-claude-conversation", ""), errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise bad_request("The conversation's id is not UTF-8.", code="invalid_conversation_id") from error
