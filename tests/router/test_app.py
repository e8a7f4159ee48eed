"""The application as a whole: error format everywhere, keys, documentation."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from claude_router.sessions import PoolStats
from router.fakes import FakeSessions
from router.harness import CHAT, endpoint, error_of

pytestmark = pytest.mark.asyncio

PROTECTED = [
    ("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/claude-code"), ("GET", "/conversations"),
    ("GET", "/conversations/c"), ("DELETE", "/conversations/c"), ("DELETE", "/conversations/c?purge=true"),
]  # fmt: skip
OPEN = ["/health", "/metrics", "/docs", "/openapi.json"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1"), ("POST", "/v1/chat"), ("GET", "/v1/models/"), ("GET", "/health/")],
)
async def test_unknown_paths(method: str, path: str) -> None:
    async with endpoint() as router:
        answer = await router.client.request(method, path)
    assert answer.status_code == 404
    error = error_of(answer)
    expected = "model_not_found" if path == "/v1/models/" else "unknown_path"
    assert (error["type"], error["code"]) == ("not_found_error", expected)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/conversations/c", "DELETE, GET"),
        ("DELETE", "/conversations", "GET"),
        ("POST", "/health", "GET"),
    ],
)
async def test_wrong_methods(method: str, path: str, allowed: str) -> None:
    async with endpoint() as router:
        answer = await router.client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    error = error_of(answer)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "method_not_allowed", None)
    assert allowed in error["message"]


async def test_keys_protect_all_but_the_open_paths() -> None:
    sessions = FakeSessions()
    sessions.add("c")
    async with endpoint(sessions=sessions, api_keys=("the-right-key",)) as router:
        for method, path in PROTECTED:
            for headers, code in (({}, "missing_api_key"), ({"authorization": "Bearer wrong-key"}, "invalid_api_key")):
                answer = await router.client.request(method, path, headers=headers)
                assert (answer.status_code, error_of(answer)["code"]) == (401, code), (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert sessions.stopped == []
        for path in OPEN:
            assert (await router.client.get(path)).status_code == 200, path
        listed = await router.client.get("/conversations", headers={"authorization": "Bearer the-right-key"})
        assert listed.status_code == 200
        assert (await router.client.get("/openapi.json")).json()["security"] == [{"api_key": []}]


class BrokenSessions(FakeSessions):
    async def stats(self) -> PoolStats:
        raise RuntimeError("a secret detail")


async def test_an_unforeseen_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with endpoint(sessions=BrokenSessions()) as router:
        answer = await router.client.get("/health")
        assert answer.status_code == 500
        error = error_of(answer)
        assert (error["type"], error["code"], error["param"]) == ("server_error", "internal_error", None)
        assert "secret" not in answer.text
        assert (await router.client.get("/v1/models")).status_code == 200
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info
    assert "a secret detail" in str(record.exc_info[1])
    assert record.__dict__["fields"] == {"route": "/health"}


def _resolves(document: dict[str, Any], node: Any) -> None:
    """Every reference in the document leads somewhere."""
    if isinstance(node, dict):
        if "$ref" in node:
            target: Any = document
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
        for value in node.values():
            _resolves(document, value)
    elif isinstance(node, list):
        for value in node:
            _resolves(document, value)


async def test_documentation() -> None:
    async with endpoint() as router:
        assert "swagger" in (await router.client.get("/docs")).text.lower()
        document = (await router.client.get("/openapi.json")).json()
    _resolves(document, document)
    assert {CHAT, "/v1/responses", "/v1/messages", "/v1/models", "/health", "/metrics"} < set(document["paths"])
    for path, schema in (("/v1/responses", "ResponsesBody"), ("/v1/messages", "MessagesBody")):
        asked = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert asked == {"$ref": f"#/components/schemas/{schema}"}
    chat = document["paths"][CHAT]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert body == "#/components/schemas/ChatRequest"
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "model", "stream", "stream_options", "tools", "conversation_id", "metadata"} <= set(fields)
    assert "text/event-stream" in chat["responses"]["200"]["content"]
    assert {"400", "401", "404", "413", "429", "502", "503"} <= set(chat["responses"])
    assert "security" not in document
    assert not [r for ops in document["paths"].values() for op in ops.values() for r in op["responses"] if r == "422"]


async def test_a_root_path_in_front() -> None:
    async with endpoint() as router:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{", "more_body": False}

        scope = {
            "type": "http", "method": "POST", "root_path": "/claude", "path": "/claude" + CHAT, "headers": [],
            "query_string": b"", "raw_path": b"/claude/v1/chat/completions",
        }  # fmt: skip
        await router.app(scope, receive, send)
    assert sent[0]["status"] == 400
