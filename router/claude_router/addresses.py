r"""Which conversation, and what of it, a path below `/conversations/` names.

An id may hold slashes, and does so even unescaped: `/conversations/a/b` is the conversation `a/b`. What of it is named
at the end, or after the first `/files`, is looked for before anything is decoded. So in an id that holds such a word
itself, `/` is to be written `%2F`: `/conversations/a%2Ffiles` is the conversation `a/files`.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Match
from starlette.types import Scope

from claude_router.access import grant_of
from claude_router.identity import checked, decode_id
from claude_router.sessions import ConversationKey
from claude_worker.openai.errors import ApiError

ROOT = "/conversations"
CONVERSATION = ROOT + "/{conversation_id:anytext}"
MESSAGES = CONVERSATION + "/messages"
FORK = CONVERSATION + "/fork"
FILES = CONVERSATION + "/files"
FILE = FILES + "/{path:anytext}"

_NO_FILE = rb"(?!(?s:.+?/files/.))"
_RAW = {
    CONVERSATION: re.compile(rb"(?s:(.*))"),
    MESSAGES: re.compile(_NO_FILE + rb"(?s:(.+))/messages"),
    FORK: re.compile(_NO_FILE + rb"(?s:(.+))/fork"),
    FILES: re.compile(_NO_FILE + rb"(?s:(.+))/files"),
    FILE: re.compile(rb"(?s:(.+?)/files/(.+))"),
}
_TEMPLATES = {template.replace(":anytext", ""): template for template in _RAW}


class _AnyText(Convertor[str]):
    """The rest of the path, line breaks included; Starlette's own `path` stops at one."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anytext", _AnyText())


def _raw(scope: Scope) -> bytes:
    """The path below `/conversations/` as it was sent."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    prefix = (scope.get("root_path", "") + ROOT + "/").encode()
    return raw.removeprefix(prefix) if raw.startswith(prefix) else b""


class RawRoute(APIRoute):
    """A route whose path is matched as it was sent: decoded, `a%2Ffiles` and `a/files` are the same."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or _RAW[self.path].fullmatch(_raw(scope)) is None:
            return Match.NONE, {}
        return super().matches(scope)


def key_of(scope: Scope, template: str = CONVERSATION) -> ConversationKey:
    """The conversation of the request's own team that the path names, decoded by the same rule as the header.

    The request has gone through the door (`claude_router.access`). Raises ApiError (400).
    """
    found = _RAW[template].fullmatch(_raw(scope))
    conversation_id = decode_id(unquote_to_bytes(found[1])) if found else ""
    return ConversationKey(grant_of(scope).tenant, checked(conversation_id, "conversation_id"))


def conversation_of(scope: Scope, route: str) -> str | None:
    """The object name of the conversation that the path names, if any; `route`: the route's path without convertors."""
    template = _TEMPLATES.get(route)
    if template is None:
        return None
    try:
        return key_of(scope, template).name
    except ApiError:
        return None  # no conversation can have such an id


def file_of(scope: Scope) -> str:
    """The file's path, percent-encoded, for the worker: bytes as the client sent them."""
    found = _RAW[FILE].fullmatch(_raw(scope))
    assert found is not None, "the route has matched"
    return quote(unquote_to_bytes(found[2]), safe="/")
