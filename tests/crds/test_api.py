"""The API client: what it sends, which error is which, and replaced tokens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from claude_crds.access import Access
from claude_crds.api import TOKEN_SECONDS, Api
from claude_crds.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unavailable,
)  # fmt: skip
from claude_crds.resources import EVENTS, SESSIONS
from crds.fake_api import FakeApi, Json, status
from crds.harness import KIND, session


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as made:
        yield made


@pytest.fixture
async def api(fake: FakeApi) -> AsyncIterator[Api]:
    async with Api(fake.loader) as made:
        yield made


def answer(code: int, body: Json | str, **headers: str) -> Callable[[web.Request], web.Response]:
    def give(_: web.Request) -> web.Response:
        if isinstance(body, str):
            return web.Response(status=code, text=body, headers=headers)
        return web.json_response(body, status=code, headers=headers)

    return give


async def test_create_get_patch_list_delete(fake: FakeApi, api: Api) -> None:
    made = await api.create(SESSIONS, "ns", session("a"))
    assert (made.name, made.spec.conversation_id, made.metadata.generation) == ("a", "a", 1)
    assert (await api.get(SESSIONS, "ns", "a")) == made
    asked = await api.patch(SESSIONS, "ns", "a", {"spec": {"desiredState": "Suspended"}})
    assert (asked.spec.desired_state, asked.metadata.generation) == ("Suspended", 2)
    done = await api.patch(SESSIONS, "ns", "a", {"status": {"phase": "Suspended"}}, subresource="status")
    assert (done.status.phase, done.metadata.generation) == ("Suspended", 2)
    await api.create(SESSIONS, "ns", session("b"))
    first = await api.list(SESSIONS, "ns", limit=1)
    assert [s.name for s in first.items] == ["a"]
    rest = await api.list(SESSIONS, "ns", limit=1, continue_token=first.continue_token)
    assert ([s.name for s in rest.items], rest.continue_token) == (["b"], "")
    assert rest.resource_version == first.resource_version
    await api.delete(SESSIONS, "ns", "a")
    assert [s.name for s in (await api.list(SESSIONS, "ns")).items] == ["b"]


async def test_what_is_sent(fake: FakeApi, api: Api) -> None:
    await api.list(SESSIONS, "ns", label_selector="a=b,c in (d)")
    request = fake.requests[-1]
    assert request.path == KIND
    assert dict(request.query) == {"labelSelector": "a=b,c in (d)"}
    assert request.headers["Authorization"] == "Bearer first"
    assert request.headers["Accept-Encoding"] == "identity"
    made = await api.create(EVENTS, "ns", {"metadata": {"generateName": "e."}, "reason": "Ready"})
    assert (made["kind"], made["apiVersion"], made["reason"]) == ("Event", "v1", "Ready")
    assert made["metadata"]["name"].startswith("e.")
    assert await api.namespace() == "ns"


async def test_preconditions(fake: FakeApi, api: Api) -> None:
    made = await api.create(SESSIONS, "ns", session("a"))
    change = {"metadata": {"labels": {"x": "y"}}}
    changed = await api.patch(
        SESSIONS, "ns", "a", change, resource_version=made.metadata.resource_version, uid=made.metadata.uid
    )
    assert changed.metadata.labels == {"x": "y"}
    assert change == {"metadata": {"labels": {"x": "y"}}}, "the caller's patch is left as it was"
    version = made.metadata.resource_version
    with pytest.raises(Conflict, match="has been modified"):
        await api.patch(SESSIONS, "ns", "a", change, resource_version=version)
    with pytest.raises(Conflict, match="field is immutable"):
        await api.patch(SESSIONS, "ns", "a", change, uid="another")
    with pytest.raises(Conflict, match="has been modified"):
        await api.delete(SESSIONS, "ns", "a", resource_version=version)
    with pytest.raises(Conflict, match="has been modified"):
        await api.delete(SESSIONS, "ns", "a", uid="another")
    with pytest.raises(ValueError, match="give resource_version"):
        await api.patch(SESSIONS, "ns", "a", {"status": {}}, subresource="status", uid=made.metadata.uid)
    fake.answers.append(answer(422, status(422, "Invalid", "spec.size: no")))
    with pytest.raises(Invalid):
        await api.patch(SESSIONS, "ns", "a", change, uid="x")
    await api.delete(SESSIONS, "ns", "a", uid=made.metadata.uid, grace_seconds=0)
    assert fake.names(KIND) == {}


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (400, "BadRequest", BadRequest),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (410, "Gone", Gone),
        (405, "MethodNotAllowed", ApiError),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unavailable),
    ],
)
async def test_each_refusal_has_its_error_with_the_servers_words(
    fake: FakeApi, api: Api, code: int, reason: str, error: type[ApiError]
) -> None:
    fake.answers.append(answer(code, status(code, reason, "the server's own words"), **{"Retry-After": "7"}))
    with pytest.raises(ApiError) as caught:
        await api.get(SESSIONS, "ns", "a")
    assert type(caught.value) is error
    assert str(caught.value) == f"GET {KIND}/a: the server's own words"
    assert (caught.value.status.code, caught.value.status.reason) == (code, reason)
    assert caught.value.retry_after == 7.0


async def test_a_refusal_that_is_no_status_is_told_all_the_same(fake: FakeApi, api: Api) -> None:
    fake.answers.append(answer(502, "<html>bad gateway</html>"))
    with pytest.raises(Unavailable, match="<html>bad gateway</html>") as caught:
        await api.get(SESSIONS, "ns", "a")
    assert (caught.value.status.code, caught.value.retry_after) == (502, None)
    fake.answers.append(answer(302, "", Location="/elsewhere"))
    with pytest.raises(ApiError, match="HTTP 302"):
        await api.get(SESSIONS, "ns", "a")


async def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with Api(lambda: Access(server)) as api:
            with pytest.raises(Unavailable, match=r"^GET .*/a: cannot connect to 127\.0\.0\.1:\d+: .*failed"):
                await api.get(SESSIONS, "ns", "a")
            with pytest.raises(Unavailable):
                async with api.watch(SESSIONS, "ns", {}, silence=1):
                    raise AssertionError


async def test_a_connection_that_breaks_in_the_answer(fake: FakeApi, api: Api) -> None:
    def cut(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.abort()
        return web.Response()

    # A GET over a used connection is repeated once by aiohttp itself, so all connections break.
    fake.answers += [cut] * 3
    with pytest.raises(Unavailable):
        await api.create(SESSIONS, "ns", session("a"))
    fake.answers.clear()
    assert (await api.create(SESSIONS, "ns", session("a"))).name == "a"


async def test_a_replaced_token_is_read_again_when_the_old_one_is_refused(fake: FakeApi) -> None:
    loads = 0

    def load() -> Access:
        nonlocal loads
        loads += 1
        return replace(fake.loader(), authorization=f"Bearer {loads}")

    def guarded(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == "Bearer 2"
        return web.json_response(session("a")) if good else answer(401, status(401, "Unauthorized"))(request)

    fake.answers += [guarded] * 20
    async with Api(load) as api:
        found = await asyncio.gather(*(api.get(SESSIONS, "ns", "a") for _ in range(5)))
        assert {s.name for s in found} == {"a"}
        assert loads == 2, "once for all who were refused"
        fake.answers[:] = [answer(401, status(401, "Unauthorized"))] * 2
        with pytest.raises(ApiError, match="Unauthorized"):
            await api.get(SESSIONS, "ns", "a")
        assert fake.answers == [], "tried twice, not for ever"


async def test_a_token_from_a_file_is_read_again_from_time_to_time(fake: FakeApi, tmp_path: Path) -> None:
    now = 1000.0
    file = tmp_path / "token"
    file.write_text("one\n")
    load = lambda: replace(fake.loader(), authorization="Bearer one", token_file=file)  # noqa: E731
    async with Api(load, clock=lambda: now) as api:

        async def sent() -> str:
            await api.list(SESSIONS, "ns")
            return fake.requests[-1].headers["Authorization"]

        assert await sent() == "Bearer one"
        file.write_text("two\n")
        assert await sent() == "Bearer one"
        now += TOKEN_SECONDS + 1
        assert await sent() == "Bearer two"
        file.unlink()
        now += TOKEN_SECONDS + 1
        assert await sent() == "Bearer two", "better than none"
