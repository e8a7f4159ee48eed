"""400 hostile requests against the router, as `serving.py` serves it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

import uvicorn
from aiohttp import web

from claude_router.app import create_app
from claude_router.serving import server_of
from claude_router.sessions import ConversationKey, Lease
from claude_router.settings import RouterSettings
from hostile.attacks import make
from hostile.laws import BOUNDS, PATIENCE, Laws, besiege, serving, wrong_either
from hostile.target import Target
from hostile.wire import Attack, deaf, request, send
from router.desk import Desk, team
from router.fakes import TOKEN, FakeSessions, view

SEED = 6
FOREIGN = "plans-of-blue"
MARK = "what-blue-plans"
"""In everything that belongs to the other team."""
LARGEST = 1 << 20

_CHAT = {"model": "claude-code", "messages": [{"role": "user", "content": "hello"}], "metadata": {"a": "b"}}
_RESPONSE = {"model": "claude-code", "input": [{"role": "user", "content": "hello"}], "instructions": "x"}
_MESSAGE = {"model": "claude-code", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}], "system": "x"}


@dataclass
class Sessions(FakeSessions):
    """Each conversation that is acquired is known from then on."""

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        assert isinstance(self.leases[0], str)
        await self.gate.wait()
        self.views.setdefault(key.name, view(key, phase="Ready", turns=0))
        return Lease(key.name, self.leases[0], TOKEN)


@dataclass
class Worker:
    """Answers whatever it is asked; what is not of `red` it answers with the mark."""

    seen: list[str] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(request.path)
        if request.path == "/stream-for-ever" or b"for ever" in body:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            while True:
                await response.write(b"data: " + b"x" * 65536 + b"\n\n")
        return web.json_response({"messages": [], "usage": {}})


@dataclass
class House:
    server: uvicorn.Server
    port: int
    target: Target
    laws: Laws
    sessions: Sessions


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Two teams, of which red attacks."""
    desk = Desk(team("red"), team("blue"), team("root", admin=True))
    red, blue = desk.key("red"), desk.key("blue")
    expired, revoked = desk.key("red", 1.0), desk.key("red")
    desk.revoke(revoked)
    sessions = Sessions()
    sessions.add(FOREIGN, "blue", workspace=MARK)
    settings = RouterSettings(max_body_bytes=LARGEST, queue_timeout=5.0)
    app = create_app(settings, sessions, version="1", access=desk.access)
    worker = web.ServerRunner(web.Server(Worker().answer))
    await worker.setup()
    site = web.TCPSite(worker, "127.0.0.1", 0)
    await site.start()
    sessions.leases.append(f"http://127.0.0.1:{worker.addresses[0][1]}")
    server = server_of(app, grace=1, bounds=BOUNDS)
    named: Sequence[tuple[bytes, bytes]] = (
        (b"GET", b"/conversations/{}"),
        (b"DELETE", b"/conversations/{}"),
        (b"GET", b"/conversations/{}/messages"),
        (b"POST", b"/conversations/{}/fork"),
        (b"GET", b"/conversations/{}/files"),
        (b"GET", b"/conversations/x/files/{}"),
        (b"PUT", b"/conversations/{}/files/a"),
        (b"PUT", b"/conversations/x/files/{}"),
        (b"GET", b"/v1/models/{}"),
        (b"GET", b"/{}"),
        (b"POST", b"/v1/messages/{}"),
        (b"GET", b"/conversations?after={}"),
        (b"GET", b"/v1/usage?since={}"),
        (b"GET", b"/conversations?team={}"),
        (b"GET", b"/docs/{}"),
    )
    target = Target(
        turns={b"/v1/chat/completions": _CHAT, b"/v1/responses": _RESPONSE, b"/v1/messages": _MESSAGE},
        reads=(b"/v1/models", b"/conversations", b"/health", b"/metrics", b"/openapi.json", b"/v1/usage"),
        named=tuple(named),
        auth=(b"Authorization", b"Bearer " + red.encode()),
        tokens=tuple(
            key.encode() for key in (expired, revoked, red[:-1], red + "x", "cca_" + blue.split("_")[1] + "_x", "cca__")
        ),
        foreign=(
            FOREIGN.encode(),
            quote(FOREIGN, safe="").replace("-", "%2D").encode(),
            ConversationKey("blue", FOREIGN).name.encode(),
        ),
        more=(
            (b"X-Conversation-ID", b"x"),
            (b"X-Session-Id", b"x"),
            (b"Idempotency-Key", b"x"),
            (b"X-Claude-History", b"full"),
            (b"X-Parent-Session-Id", b"x"),
            (b"X-Stainless-Retry-Count", b"1"),
            (b"X-Claude-Team", b"red"),
        ),
        largest_body=LARGEST,
    )
    try:
        async with serving(server) as port:
            yield House(server, port, target, Laws((MARK, TOKEN, red, blue), wrong_either), sessions)
    finally:
        await worker.cleanup()


async def test_four_hundred_hostile_requests() -> None:
    async with house() as it:
        attacks = make(it.target, random.Random(SEED), 400)
        outcomes = await besiege(it.server, it.port, attacks, it.laws, b"/health")
        statuses = {answer.status for outcome in outcomes for answer in outcome.answers}
        assert statuses >= {200, 400, 401, 403, 404, 408, 413, 431}
        assert all(v.key.tenant != "blue" or v.key.id == FOREIGN for v in it.sessions.views.values())


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    async with house() as it:
        body = json.dumps({**_CHAT, "stream": True, "messages": [{"role": "user", "content": "for ever"}]}).encode()
        asked = request(b"POST", b"/v1/chat/completions", [it.target.auth], body)
        assert await deaf(it.port, Attack("deaf", (asked,)), PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while it.server.server_state.connections or it.server.server_state.tasks:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)


async def test_who_leaves_while_two_requests_wait_leaves_both() -> None:
    """Of several requests on one connection it is the first that must learn that its client has left."""
    async with house() as it:
        it.sessions.gate.clear()
        turn = it.target.turn(random.Random(SEED))
        outcome = await send(it.port, Attack("two", (turn + turn,), close="reset"), PATIENCE)
        assert not outcome.answers
        async with asyncio.timeout(PATIENCE):
            while it.server.server_state.tasks:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)


async def test_a_trailer_is_no_header() -> None:
    async with house() as it:
        path, body = next(iter(it.target.turns.items()))
        data = json.dumps(body).encode()
        head = request(b"POST", path, [(b"Transfer-Encoding", b"chunked")])
        name, value = it.target.auth
        framed = b"%x\r\n%b\r\n0\r\n%b: %b\r\n\r\n" % (len(data), data, name, value)
        outcome = await send(it.port, Attack("trailer", (head + framed,)), PATIENCE)
        assert [answer.status for answer in outcome.answers] == [401]
