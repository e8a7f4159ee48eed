"""No team learns anything of another: every route, with every kind of foreign id, answers as for one nobody has."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute

from claude_router.app import create_app
from claude_router.matching import histories
from claude_router.sessions import ConversationKey, Lease
from claude_router.settings import RouterSettings
from claude_worker.dialect import CHAT, DIALECTS
from claude_worker.openai.request import parse
from claude_worker.openai.response_ids import response_id
from router.desk import Desk, team
from router.fakes import TOKEN, Exchange, FakeSessions, FakeWorker, view
from router.harness import Endpoint, body, endpoint

pytestmark = pytest.mark.asyncio

FOREIGN, UNKNOWN, OWN = "plans-of-blue", "nothing-at-all", "own"
HISTORY = [
    {"role": "user", "content": "what does blue do"},
    {"role": "assistant", "content": "it plans"},
    {"role": "user", "content": "go on"},
]


@dataclass
class TwoTeams(FakeSessions):
    """Each conversation that is acquired is known from then on."""

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        self.acquired.append((key, deadline))
        await self.gate.wait()
        self.views.setdefault(key.name, view(key, phase="Ready", turns=0))
        return Lease(key.name, self.leases[0] if isinstance(self.leases[0], str) else "", TOKEN)


async def worker(exchange: Exchange) -> None:
    """Answers everything, and a fork's archive, too."""
    await exchange.whole(200, {"content-type": "application/json"}, b'{"messages": [], "echo": "from the worker"}')


@dataclass
class House:
    """The router, a key of red, a key of blue, and one of an admin."""

    router: Endpoint
    desk: Desk
    red: str
    blue: str
    root: str

    async def ask(self, key: str, method: str, path: str, content: Any = None, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"authorization": f"Bearer {key}"}
        return await self.router.client.request(method, path, json=content, headers=sent)


class Housed:
    """`async with Housed() as house`."""

    async def __aenter__(self) -> House:
        self._worker = await FakeWorker(worker).__aenter__()
        sessions = TwoTeams()
        sessions.add(FOREIGN, "blue", turns=77)
        sessions.add(OWN, "red")
        desk = Desk(team("red"), team("blue"), team("root", admin=True))
        app = create_app(RouterSettings(), sessions, version="1", access=desk.access)
        self._endpoint = endpoint(self._worker.endpoint, sessions=sessions, app=app)
        router = await self._endpoint.__aenter__()
        return House(router, desk, desk.key("red"), desk.key("blue"), desk.key("root"))

    async def __aexit__(self, *error: Any) -> None:
        await self._endpoint.__aexit__(*error)
        await self._worker.__aexit__(*error)


PATHS = {
    ("GET", "/conversations/{id}"): None,
    ("DELETE", "/conversations/{id}"): None,
    ("DELETE", "/conversations/{id}?purge=true"): None,
    ("GET", "/conversations/{id}/messages"): None,
    ("POST", "/conversations/{id}/fork"): {},
    ("GET", "/conversations/{id}/files"): None,
    ("GET", "/conversations/{id}/files?list=true"): None,
    ("GET", "/conversations/{id}/files/a.txt"): None,
    ("PUT", "/conversations/{id}/files/a.txt"): "text",
    ("POST", "/conversations/own/fork"): {"id": "{id}"},
    ("GET", "/conversations?after={id}"): None,
}
"""Every route that an id can be sent to."""

WITHOUT_ID = {
    ("GET", "/v1/models"), ("GET", "/v1/models/{model}"), ("GET", "/conversations"), ("GET", "/v1/usage"),
    ("GET", "/health"), ("GET", "/metrics"), ("POST", "/v1/messages/count_tokens"),
    ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/docs/oauth2-redirect"),
}  # fmt: skip

TURNS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "header": ({}, {"x_conversation_id": "{id}"}),
    "model": ({"model": "claude-code:{id}"}, {}),
    "session header": ({}, {"x_session_id": "{id}"}),
    "other session header": ({}, {"x_session_affinity": "{id}"}),
    "body": ({"conversation_id": "{id}"}, {}),
    "metadata": ({"metadata": {"conversation_id": "{id}"}}, {}),
}
"""Every way to name a conversation in a turn."""


def put(value: Any, conversation: str) -> Any:
    """The id in its place."""
    if isinstance(value, str):
        return value.replace("{id}", conversation)
    if isinstance(value, dict):
        return {k: put(v, conversation) for k, v in value.items()}
    return value


def shape(answer: httpx.Response, conversation: str, tenant: str = "red") -> tuple[int, dict[str, str], str]:
    """The answer without what the client said itself, and without the time."""

    def neutral(text: str) -> str:
        name = ConversationKey(tenant, conversation).name
        text = text.replace(name, "NAME").replace(conversation, "ID")
        return re.sub(r"conv[-_][a-z0-9-]{10,}", "MADE-UP", text)

    headers = {k: neutral(v) for k, v in answer.headers.items() if k not in ("date", "content-length")}
    return answer.status_code, headers, neutral(answer.text)


def template(route: BaseRoute) -> str:
    return re.sub(r"\{conversation_id[^}]*\}", "{id}", str(getattr(route, "path", "")))


async def test_the_matrix_has_every_route() -> None:
    async with Housed() as house:
        routes = {
            (method, template(route).replace("{path:anytext}", "a.txt").replace(":path}", "}"))
            for route in house.router.app.routes
            for method in getattr(route, "methods", None) or ()
            if method != "HEAD"
        }
    turns = {("POST", dialect.path) for dialect in DIALECTS}
    covered = {(method, path.split("?")[0]) for method, path in PATHS}
    assert routes - covered - WITHOUT_ID - turns == set(), "a new route must be put into this matrix"
    assert {path for _, path in WITHOUT_ID if "{id}" in path} == set()


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_foreign_id_in_a_path(method: str, path: str) -> None:
    answers = []
    for conversation in (FOREIGN, UNKNOWN):
        async with Housed() as house:
            sessions = house.router.sessions
            content = put(PATHS[method, path], conversation)
            found = await house.ask(house.red, method, put(path, conversation), content)
            answers.append(shape(found, conversation))
            assert {key.tenant for key, _ in sessions.acquired} <= {"red"}
            assert {key.tenant for _, key in sessions.stopped} <= {"red"}
            theirs = await sessions.get(ConversationKey("blue", FOREIGN))
            assert theirs == view(ConversationKey("blue", FOREIGN), turns=77), "nothing has happened to it"
    foreign, unknown = answers
    if path.startswith("/conversations?"):
        # Where a page begins is a matter of the name that follows from the own team and the id.
        assert foreign[0] == unknown[0] == 200
        assert "77" not in foreign[2]
    else:
        assert foreign == unknown
    if method == "GET" and "after" not in path:
        assert foreign[0] == 404


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
@pytest.mark.parametrize("way", TURNS)
async def test_a_foreign_id_in_a_turn_begins_a_conversation_of_ones_own(dialect: Any, way: str) -> None:
    content, headers = TURNS[way]
    if way == "body" and dialect is not CHAT:
        pytest.skip("a field of one API only")
    answers = []
    for conversation in (FOREIGN, UNKNOWN):
        async with Housed() as house:
            asked = {"input": "x", "max_tokens": 9, **body(), **put(content, conversation)}
            found = await house.ask(house.red, "POST", dialect.path, asked, **put(headers, conversation))
            answers.append(shape(found, conversation))
            assert found.status_code == 200, found.text
            ((key, _),) = house.router.sessions.acquired
            assert key.tenant == "red"
            assert key.id == conversation or way == "metadata"
    assert answers[0] == answers[1]


async def test_the_same_id_in_two_teams_is_two_conversations() -> None:
    async with Housed() as house:
        for key in (house.red, house.blue):
            assert (await house.ask(key, "POST", CHAT.path, body(), x_conversation_id="same")).status_code == 200
        red, blue = (key for key, _ in house.router.sessions.acquired)
        assert (red, blue) == (ConversationKey("red", "same"), ConversationKey("blue", "same"))
        assert red.name != blue.name
        assert (await house.ask(house.red, "DELETE", "/conversations/same?purge=true")).status_code == 200
        assert (await house.ask(house.red, "GET", "/conversations/same")).status_code == 404
        assert (await house.ask(house.blue, "GET", "/conversations/same")).status_code == 200


async def test_a_foreign_response_key_or_history_leads_nowhere() -> None:
    async with Housed() as house:
        sessions = house.router.sessions
        for conversation in (FOREIGN, UNKNOWN):
            asked = {"model": "claude-code", "input": "x", "previous_response_id": response_id(conversation, "a" * 32)}
            gone = await house.ask(house.red, "POST", "/v1/responses", asked)
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "previous_response_not_found")
        assert sessions.acquired == []
        theirs = {"model": "claude-code", "input": "x", "previous_response_id": response_id(FOREIGN, "a" * 32)}
        assert (await house.ask(house.blue, "POST", "/v1/responses", theirs)).status_code == 200
        for key in (house.blue, house.red):
            await house.ask(key, "POST", CHAT.path, body(), idempotency_key="one-key")
        first, second = (key for key, _ in sessions.acquired[-2:])
        assert (first.tenant, second.tenant) == ("blue", "red")
        assert first.id != second.id, "not even the made-up id is the same"
        chat = body(messages=HISTORY)
        (tip,) = histories(parse(json.dumps(chat).encode()))
        sessions.note_tip(ConversationKey("blue", FOREIGN), tip)
        await house.ask(house.red, "POST", CHAT.path, chat)
        assert sessions.acquired[-1][0].tenant == "red"
        assert sessions.acquired[-1][0].id != FOREIGN
        await house.ask(house.blue, "POST", CHAT.path, chat)
        assert sessions.acquired[-1][0] == ConversationKey("blue", FOREIGN)


async def test_a_list_shows_ones_own() -> None:
    async with Housed() as house:
        red = (await house.ask(house.red, "GET", "/conversations")).json()
        blue = (await house.ask(house.blue, "GET", "/conversations?team=blue")).json()
        assert [c["id"] for c in red["data"]] == [OWN]
        assert [c["id"] for c in blue["data"]] == [FOREIGN]
        assert all("team" not in c for c in red["data"] + blue["data"])
        refusals = [
            shape(await house.ask(house.red, "GET", f"/conversations?team={name}"), name)
            for name in ("blue", "root", "unheard-of", "*")
        ]
        refusals += [
            shape(await house.ask(house.red, "GET", "/conversations", x_claude_team=name), name)
            for name in ("blue", "unheard-of")
        ]
        assert {r[0] for r in refusals} == {403}
        assert len({r[2] for r in refusals}) == 1


async def test_an_admin_sees_and_acts_for_all() -> None:
    async with Housed() as house:
        sessions = house.router.sessions
        assert (await house.ask(house.root, "GET", "/conversations")).json()["data"] == []
        assert (await house.ask(house.root, "GET", f"/conversations/{FOREIGN}")).status_code == 404
        (theirs,) = (await house.ask(house.root, "GET", "/conversations?team=blue")).json()["data"]
        assert (theirs["id"], theirs["team"]) == (FOREIGN, "blue")
        everything = (await house.ask(house.root, "GET", "/conversations?team=*")).json()
        assert {(c["team"], c["id"]) for c in everything["data"]} == {("blue", FOREIGN), ("red", OWN)}
        page = (await house.ask(house.root, "GET", "/conversations?team=*&limit=1")).json()
        assert page["has_more"]
        rest = (await house.ask(house.root, "GET", f"/conversations?team=*&after={page['last_id']}")).json()
        assert page["data"] + rest["data"] == everything["data"]
        one = await house.ask(house.root, "GET", f"/conversations/{FOREIGN}", x_claude_team="blue")
        assert (one.json()["team"], one.json()["turns"]) == ("blue", 77)
        assert (await house.ask(house.root, "POST", CHAT.path, body(), x_conversation_id=FOREIGN,
                                x_claude_team="blue")).status_code == 200  # fmt: skip
        assert sessions.acquired[-1][0] == ConversationKey("blue", FOREIGN)
        assert (await house.ask(house.root, "GET", "/conversations", x_claude_team="green")).status_code == 403
        gone = await house.ask(house.root, "DELETE", f"/conversations/{FOREIGN}?purge=true", x_claude_team="blue")
        assert gone.json()["purged"]
        assert sessions.stopped[-1] == ("purge", ConversationKey("blue", FOREIGN))


async def test_without_a_valid_key_every_route_is_shut_and_tells_nothing() -> None:
    async with Housed() as house:
        for method, path in PATHS:
            content = put(PATHS[method, path], FOREIGN)
            for key in ("cca_aaaaaaaa_" + "b" * 43, "wrong-key-of-nobody"):
                found = await house.ask(key, method, put(path, FOREIGN), content)
                assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
        assert house.router.sessions.acquired == []
        assert house.router.sessions.stopped == []


async def test_a_key_that_is_revoked_or_whose_team_is_gone_is_refused_at_once() -> None:
    async with Housed() as house:
        assert (await house.ask(house.red, "GET", "/conversations")).status_code == 200
        house.desk.revoke(house.red)
        assert (await house.ask(house.red, "GET", "/conversations")).status_code == 401
        assert (await house.ask(house.red, "POST", CHAT.path, body())).status_code == 401
        house.desk.side.teams.changed("deleted", team("blue"), None)
        gone = await house.ask(house.blue, "GET", "/conversations")
        assert (gone.status_code, gone.json()["error"]["code"]) == (403, "team_not_found")
