"""Models, health, conversations, metrics."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import pytest

from claude_router.sessions import ConversationKey, SessionFailed, Unreachable
from router.fakes import DONE, FakeSessions, FakeWorker, streams
from router.harness import endpoint, error_of

pytestmark = pytest.mark.asyncio

STRANGE = [
    "a/b/../c",
    "..",
    "grüße 😀",
    "line\nbreak",
    "line\n",
    "100%",
    "a?b#c",
    " blank ",
    "\u2028",
    "a%2Fb",
    "~",
    "\0",
]


async def test_models() -> None:
    async with endpoint(models={"claude-code-opus": "opus", "team/big": "x"}) as router:
        listed = (await router.client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [m["id"] for m in listed["data"]] == [
            "claude-code", "claude-code-tools", "claude-code-client", "claude-code-opus", "team/big",
        ]  # fmt: skip
        for model in listed["data"]:
            assert (model["object"], model["owned_by"]) == ("model", "claude-code-api")
            assert isinstance(model["created"], int)
            assert (await router.client.get(f"/v1/models/{model['id']}")).json() == model
        unknown = await router.client.get("/v1/models/gpt-4o")
    assert unknown.status_code == 404
    error = error_of(unknown)
    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "model_not_found", "model")


async def test_health() -> None:
    async with endpoint() as router:
        answer = await router.client.get("/health")
    assert answer.status_code == 200
    found = answer.json()
    assert found.pop("uptime_seconds") >= 0
    assert found == {
        "status": "ok", "version": "1.2.3", "cli_version": "2.1.330", "running_requests": 0,
        "pool": {"size": 5, "live": 2, "busy": 1, "warm": 1, "suspended": 7, "queued": 3},
    }  # fmt: skip


async def test_health_says_why_nothing_can_be_served() -> None:
    sessions = FakeSessions()
    sessions.pool = replace(sessions.pool, error="Claude Code cannot start: no such file")
    async with endpoint(sessions=sessions) as router:
        answer = await router.client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "failing"
    assert answer.json()["error"]["message"] == "Claude Code cannot start: no such file"
    assert answer.json()["error"]["code"] == "workers_cannot_start"
    assert answer.json()["pool"]["size"] == 5


async def test_health_is_degraded_while_live_conversations_go_on() -> None:
    sessions = FakeSessions()
    sessions.pool = replace(sessions.pool, error="the image cannot be pulled", degraded=True)
    async with endpoint(sessions=sessions) as router:
        answer = await router.client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["error"]["message"] == "the image cannot be pulled"
        router.app.state.running.announce()
        answer = await router.client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [(Unreachable("nobody is there"), 503, "cluster_unreachable"), (SessionFailed("forbidden"), 502, "session_failed")],
)
async def test_a_deletion_that_fails(failure: Exception, status: int, code: str) -> None:
    class Failing(FakeSessions):
        async def suspend(self, key: ConversationKey) -> bool:
            raise failure

    async with endpoint(sessions=Failing()) as router:
        answer = await router.client.delete("/conversations/a")
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert str(failure) in error_of(answer)["message"]


async def test_conversations_page_by_page() -> None:
    sessions = FakeSessions()
    for number in range(5):
        sessions.add(f"talk {number}")
    async with endpoint(sessions=sessions) as router:
        seen, after = [], ""
        for expected_more in (True, True, False):
            page = (await router.client.get("/conversations", params={"limit": 2, "after": after})).json()
            assert (page["object"], page["has_more"]) == ("list", expected_more)
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            seen += [c["id"] for c in page["data"]]
            after = page["last_id"]
    assert sorted(seen) == [f"talk {number}" for number in range(5)]


async def test_conversations_by_default_a_hundred() -> None:
    sessions = FakeSessions()
    for number in range(101):
        sessions.add(f"c{number}")
    async with endpoint(sessions=sessions) as router:
        page = (await router.client.get("/conversations")).json()
        everything = (await router.client.get("/conversations?limit=1000")).json()
    assert (len(page["data"]), page["has_more"]) == (100, True)
    assert (len(everything["data"]), everything["has_more"]) == (101, False)


async def test_no_conversations() -> None:
    async with endpoint() as router:
        page = (await router.client.get("/conversations")).json()
    assert page == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=many"])
async def test_a_bad_limit(query: str) -> None:
    async with endpoint() as router:
        answer = await router.client.get(f"/conversations?{query}")
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_parameter", "limit")


async def test_one_conversation() -> None:
    sessions = FakeSessions()
    sessions.add("c", phase="Ready", busy=True, message="m", claude_session_id="uuid")
    async with endpoint(sessions=sessions) as router:
        answer = await router.client.get("/conversations/c")
    assert answer.json() == {
        "object": "conversation", "id": "c", "name": ConversationKey("default", "c").name, "phase": "Ready",
        "busy": True, "created": 1.0, "last_active": 2.0, "turns": 3,
        "usage": {"input_tokens": 10, "output_tokens": 20, "cached_tokens": 5}, "cost_usd": 0.25,
        "workspace": "somewhere", "claude_session_id": "uuid", "message": "m",
    }  # fmt: skip


@pytest.mark.parametrize("conversation_id", STRANGE)
async def test_any_id_can_be_addressed(conversation_id: str) -> None:
    sessions = FakeSessions()
    sessions.add(conversation_id)
    path = "/conversations/" + quote(conversation_id, safe="").replace(".", "%2E")
    async with endpoint(sessions=sessions) as router:
        found = await router.client.get(path)
        assert (found.status_code, found.json()["id"]) == (200, conversation_id)
        gone = await router.client.delete(path)
        assert gone.json() == {"object": "conversation", "id": conversation_id, "suspended": True, "purged": False}
        gone = await router.client.delete(path + "?purge=true")
        assert gone.json() == {"object": "conversation", "id": conversation_id, "suspended": False, "purged": True}
        assert (await router.client.get(path)).status_code == 404
    assert [(what, key.id) for what, key in sessions.stopped] == [
        ("suspend", conversation_id), ("purge", conversation_id),
    ]  # fmt: skip


async def test_an_unescaped_slash_and_bytes_that_are_not_utf8() -> None:
    sessions = FakeSessions()
    sessions.add("a/b")
    sessions.add("café")
    async with endpoint(sessions=sessions) as router:
        assert (await router.client.get("/conversations/a/b")).json()["id"] == "a/b"
        assert (await router.client.get("/conversations/caf%E9")).json()["id"] == "café"


@pytest.mark.parametrize("path", ["/conversations/unknown", "/conversations/"])
async def test_unknown_conversations(path: str) -> None:
    async with endpoint() as router:
        answers = [
            await router.client.get(path),
            await router.client.delete(path),
            await router.client.delete(path, params={"purge": "true"}),
        ]
    for answer in answers:
        assert answer.status_code == 404
        error = error_of(answer)
        assert (error["type"], error["code"]) == ("not_found_error", "conversation_not_found")
        assert error["param"] == "conversation_id"


async def test_an_id_in_a_path_that_is_too_long() -> None:
    async with endpoint() as router:
        answer = await router.client.get("/conversations/" + "x" * 257)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "conversation_id_too_long")


async def test_a_bad_purge_does_not_remove_anything() -> None:
    sessions = FakeSessions()
    sessions.add("c")
    async with endpoint(sessions=sessions) as router:
        answer = await router.client.delete("/conversations/c?purge=perhaps")
    assert (answer.status_code, error_of(answer)["param"]) == (400, "purge")
    assert sessions.stopped == []


async def test_metrics() -> None:
    async with FakeWorker(streams(DONE)) as worker, endpoint(worker.endpoint) as router:
        await router.chat()
        await router.chat(b"{")
        await router.client.get("/conversations/a")
        await router.client.get("/conversations/b")
        await router.client.get("/nowhere/at/all")
        answer = await router.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert all(name.startswith("claude_") for name in values)
    assert values['claude_http_requests_total{route="/v1/chat/completions",status="200"}'] == "1.0"
    assert values['claude_http_requests_total{route="/v1/chat/completions",status="400"}'] == "1.0"
    assert values['claude_http_requests_total{route="/conversations/{conversation_id}",status="404"}'] == "2.0"
    assert values['claude_http_requests_total{route="(none)",status="404"}'] == "1.0"
    assert values['claude_http_request_duration_seconds_count{route="/v1/chat/completions"}'] == "2.0"
    assert values["claude_chat_first_byte_seconds_count"] == "2.0"
    assert values["claude_chat_running_requests"] == "0.0"
    pool = {name: values[f"claude_pool_{name}"] for name in ("size_workers", "live_workers", "queued_conversations")}
    assert pool == {"size_workers": "5.0", "live_workers": "2.0", "queued_conversations": "3.0"}
    units = ("_seconds", "_workers", "_conversations", "_requests", "_keepalives", "_lost")
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert all(name.removesuffix("_total").removesuffix("_created").endswith(units) for name in families)
