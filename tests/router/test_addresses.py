"""Ids with slashes, and what follows them in a path."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Match

from claude_router import addresses
from claude_router.access import OPEN, let_in
from claude_router.addresses import CONVERSATION, FILE, FILES, FORK, MESSAGES, conversation_of, file_of, key_of


def scope(raw: str, root_path: str = "") -> dict[str, Any]:
    made = {"type": "http", "raw_path": (root_path + raw).encode(), "path": "", "root_path": root_path}
    let_in(made, OPEN)
    return made


@pytest.mark.parametrize(("path", "template", "conversation", "file"), [
    ("a/messages", MESSAGES, "a", ""),
    ("a/b/messages", MESSAGES, "a/b", ""),
    ("a%2Fmessages/messages", MESSAGES, "a/messages", ""),
    ("a/fork", FORK, "a", ""),
    ("a%2Fb%252F/fork", FORK, "a/b%2F", ""),
    ("a/files", FILES, "a", ""),
    ("a%2Ffiles/files", FILES, "a/files", ""),
    ("a/files/x", FILE, "a", "x"),
    ("a/files/x/files/y", FILE, "a", "x/files/y"),
    ("a%2Ffiles%2Fx/files/y", FILE, "a/files/x", "y"),
    ("gr%C3%BC%C3%9Fe%0A/files/%2e%2e/%2F%C3%BC%FF%20b", FILE, "grüße\n", "..//%C3%BC%FF%20b"),
    ("a%2Ffiles", CONVERSATION, "a/files", ""),
])  # fmt: skip
def test_what_a_path_names(path: str, template: str, conversation: str, file: str) -> None:
    for root in ("", "/below"):
        found = scope("/conversations/" + path, root)
        assert key_of(found, template).id == conversation
        if file:
            assert file_of(found) == file


@pytest.mark.parametrize(("path", "templates"), [
    ("a", [CONVERSATION]),
    ("a/messages", [CONVERSATION, MESSAGES]),
    ("a%2Fmessages", [CONVERSATION]),
    ("a/files", [CONVERSATION, FILES]),
    ("a/files/", [CONVERSATION]),
    ("a%2Ffiles/x", [CONVERSATION]),
    ("a/files/x", [CONVERSATION, FILE]),
    ("a/files/files", [CONVERSATION, FILE]),
    ("a/files/messages", [CONVERSATION, FILE]),
    ("a/files/x/fork", [CONVERSATION, FILE]),
    ("files", [CONVERSATION]),
    ("messages", [CONVERSATION]),
    ("/files/x", [CONVERSATION]),
])  # fmt: skip
def test_which_routes_a_path_may_be_for(path: str, templates: list[str]) -> None:
    raw = path.encode()
    assert [t for t in (CONVERSATION, MESSAGES, FORK, FILES, FILE) if addresses._RAW[t].fullmatch(raw)] == templates


def test_a_request_that_has_not_gone_through_the_door_has_no_conversations() -> None:
    with pytest.raises(KeyError):
        key_of({"type": "http", "raw_path": b"/conversations/a", "path": "/conversations/a"})


def test_the_name_of_what_a_route_is_about() -> None:
    route = "/conversations/{conversation_id}"
    assert conversation_of(scope("/conversations/a"), route) == key_of(scope("/conversations/a")).name
    assert conversation_of(scope("/conversations/a/fork"), route + "/fork") == key_of(scope("/conversations/a")).name
    assert conversation_of(scope("/conversations/" + "a" * 257), route) is None
    assert conversation_of(scope("/v1/models"), "/v1/models") is None


def test_a_route_is_for_http_only() -> None:
    async def endpoint() -> None: ...

    route = addresses.RawRoute(MESSAGES, endpoint)
    assert route.matches({"type": "websocket"})[0] is Match.NONE
