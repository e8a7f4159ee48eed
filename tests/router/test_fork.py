"""A fork through the router, between the file endpoints of two real workers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from claude_router.sessions import ConversationKey, Lease, PoolExhausted
from claude_worker.ledger import Ledger
from claude_worker.openai.errors import ApiError
from router.fakes import TOKEN, Exchange, FakeSessions, FakeWorker, view
from router.harness import endpoint, error_of
from router.volumes import answers, served
from worker.carriers import SESSION, Carrier, tree_of

pytestmark = pytest.mark.asyncio

UUID = "00000000-0000-4000-8000-00000000abcd"
TALK = {
    "messages": [
        {"role": "user", "content": "hello", "uuid": "u1"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi."}], "uuid": UUID, "message_id": "m1"},
        {"role": "user", "content": "go on", "uuid": "u2"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "Bash", "input": {}}],
            "uuid": "a2",
            "message_id": "m2",
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "x"}], "uuid": "u3"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c2", "name": "mcp__client__ask", "input": {}}],
            "uuid": UUID[:-1] + "e",
            "message_id": "m3",
        },
    ]
}


@dataclass
class ByName(FakeSessions):
    """Each conversation has its own worker; one that is acquired is known from then on."""

    workers: dict[str, str | Exception] = field(default_factory=dict)
    other: str | Exception = ""

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        self.acquired.append((key, deadline))
        self.views.setdefault(key.name, view(key, phase="Ready", turns=0))
        found = self.workers.get(key.id, self.other)
        if isinstance(found, Exception):
            raise found
        return Lease(key.name, found, TOKEN)


def conversations(new: str | Exception, old: str = "") -> ByName:
    sessions = ByName(workers={"old": old}, other=new)
    sessions.add("old")
    return sessions


@pytest.fixture
async def old(tmp_path: Path) -> Carrier:
    carrier = Carrier(tmp_path / "old")
    carrier.begin()
    carrier.remember(f"projects/p/{SESSION}.jsonl", "{}\n" * 100_000)
    (carrier.workspace / "big").write_bytes(b"x" * 3_000_000)
    return carrier


@pytest.fixture
async def new(tmp_path: Path) -> Carrier:
    return Carrier(tmp_path / "new")


async def test_a_fork_has_memory_ledger_and_workspace(old: Carrier, new: Carrier) -> None:
    async with served(old) as there, served(new) as here, endpoint(sessions=conversations(here, there)) as router:
        answer = await router.client.post("/conversations/old/fork")
        again = await router.client.post("/conversations/old/fork", json={"id": "chosen/id", "at": None})
    assert answer.status_code == 201
    found = answer.json()
    assert (found["object"], found["id"][:5], found["turns"]) == ("conversation", "conv_", 0)
    assert tree_of(new.workspace) == tree_of(old.workspace)
    assert Ledger(new.settings.volume).state.claude_session_id == SESSION
    assert (new.settings.config_dir / f"projects/p/{SESSION}.jsonl").stat().st_size == 300_000
    assert new.conversation.imported == [""]
    assert not old.conversation.slot.locked()
    # By then this worker is somebody's.
    assert (again.status_code, error_of(again)["code"]) == (409, "conversation_exists")
    assert router.sessions.stopped == []


@pytest.mark.parametrize(("at", "uuid"), [(1, UUID), (UUID, UUID), (5, UUID[:-1] + "e")])
async def test_a_fork_at_an_answer(old: Carrier, new: Carrier, at: Any, uuid: str) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.request.line.startswith("GET /transcript"):
            await answers(200, TALK)(exchange)
            return
        archive = await old.client.get("/export")
        await exchange.whole(200, {"content-type": "application/x-tar"}, archive.content)

    async with (
        FakeWorker(script) as there,
        served(new) as here,
        endpoint(sessions=conversations(here, there.endpoint)) as router,
    ):
        answer = await router.client.post("/conversations/old/fork", json={"id": "x", "at": at})
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"] == "x"
    assert new.conversation.imported == [uuid]


@pytest.mark.parametrize(("at", "code"), [
    (0, "invalid_fork_point"), (3, "invalid_fork_point"), ("a2", "invalid_fork_point"), ("u1", "message_not_found"),
    (6, "message_not_found"), (-1, "message_not_found"), ("", "message_not_found"),
])  # fmt: skip
async def test_what_is_no_point_to_fork_at(at: Any, code: str) -> None:
    async with (
        FakeWorker(answers(200, TALK)) as there,
        endpoint(sessions=conversations("", there.endpoint)) as router,
    ):
        answer = await router.client.post("/conversations/old/fork", json={"at": at})
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) == (400, code, "at")
    assert [key.id for key, _ in router.sessions.acquired] == ["old"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"at": 1.5}', b'{"id": 7}', b"\xff"])
async def test_a_body_that_is_none(body: bytes) -> None:
    async with endpoint(sessions=conversations("")) as router:
        answer = await router.client.post("/conversations/old/fork", content=body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_body")


async def test_a_fork_is_never_a_conversation_that_there_is() -> None:
    sessions = conversations("")
    sessions.add("taken")
    async with endpoint(sessions=sessions) as router:
        for name in ("old", "taken"):
            answer = await router.client.post("/conversations/old/fork", json={"id": name})
            assert (answer.status_code, error_of(answer)["code"]) == (409, "conversation_exists")
        answer = await router.client.post("/conversations/old/fork", json={"id": "x" * 257})
        assert (answer.status_code, error_of(answer)["code"]) == (400, "conversation_id_too_long")
    assert sessions.acquired == []


async def test_a_pool_of_one_cannot_fork() -> None:
    sessions = conversations("")
    sessions.pool = replace(sessions.pool, size=1)
    async with endpoint(sessions=sessions) as router:
        answer = await router.client.post("/conversations/old/fork")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "pool_too_small")


async def test_a_running_turn_is_waited_for_but_not_for_ever(old: Carrier, new: Carrier) -> None:
    async with (
        served(old) as there,
        served(new) as here,
        endpoint(sessions=conversations(here, there), queue_timeout=0.3) as router,
        old.conversation.slot,
    ):
        answer = await router.client.post("/conversations/old/fork")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "conversation_busy")
    assert [key.id for key, _ in router.sessions.acquired] == ["old"]


async def test_without_a_worker_for_the_new_one_nothing_is_left_of_it(old: Carrier) -> None:
    async with served(old) as there, endpoint(sessions=conversations(PoolExhausted("full"), there)) as router:
        answer = await router.client.post("/conversations/old/fork", json={"id": "new"})
        assert (answer.status_code, error_of(answer)["code"]) == (503, "pool_exhausted")
        assert router.sessions.stopped == [("purge", ConversationKey("default", "new"))]
        async with asyncio.timeout(10), old.conversation.slot:
            pass  # turns of the old one go on


async def test_a_source_that_is_lost_half_way_leaves_nothing(old: Carrier, new: Carrier) -> None:
    archive = (await old.client.get("/export")).content

    async def script(exchange: Exchange) -> None:
        await exchange.head(headers={"content-type": "application/x-tar"})
        await exchange.chunk(archive[: len(archive) // 2])
        exchange.cut()

    before = tree_of(new.settings.volume)
    async with (
        FakeWorker(script) as there,
        served(new) as here,
        endpoint(sessions=conversations(here, there.endpoint)) as router,
    ):
        answer = await router.client.post("/conversations/old/fork", json={"id": "new"})
    assert (answer.status_code, error_of(answer)["code"]) == (502, "worker_lost")
    assert router.sessions.stopped == [("purge", ConversationKey("default", "new"))]
    assert tree_of(new.settings.volume) == before


async def test_what_has_become_somebodys_meanwhile_is_not_removed(old: Carrier, new: Carrier) -> None:
    async def import_volume(*_: object, **__: object) -> None:
        key = ConversationKey("default", "new")
        sessions.views[key.name] = view(key, phase="Ready", turns=1)
        raise ApiError(500, "no", code="internal_error")

    new.conversation.import_volume = import_volume  # type: ignore[method-assign]
    async with served(old) as there, served(new) as here:
        sessions = conversations(here, there)
        async with endpoint(sessions=sessions) as router:
            answer = await router.client.post("/conversations/old/fork", json={"id": "new"})
    assert answer.status_code == 500
    assert sessions.stopped == []


async def test_two_forks_to_one_id_at_once(old: Carrier, new: Carrier) -> None:
    async with served(old) as there, served(new) as here, endpoint(sessions=conversations(here, there)) as router:

        async def fork() -> httpx.Response:
            return await router.client.post("/conversations/old/fork", json={"id": "new"})

        found = await asyncio.gather(fork(), fork())
    assert sorted(answer.status_code for answer in found) == [201, 409]
    assert new.conversation.imported == [""]
