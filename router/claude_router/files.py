"""A conversation's messages and files, and its fork: each asked of, or done by, the conversation's own worker."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import Enum
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from claude_router import errors, views
from claude_router.access import grant_of
from claude_router.addresses import FILE, FILES, FORK, MESSAGES, RawRoute, file_of, key_of
from claude_router.client import ClientLeft, read_body
from claude_router.errands import Errand, Errands, Relayed, Upload
from claude_router.fork import Forks, read_messages
from claude_router.limits import Limits
from claude_router.running import Running
from claude_router.sessions import ConversationKey, Sessions, SessionView
from claude_router.settings import EndpointSettings
from claude_worker.openai.errors import bad_request

_Id = Annotated[str, Path(description="The conversation's id; a slash in it is written `%2F`.")]
_File = Annotated[str, Path(description="The file's path, relative to the workspace.")]
_FORK_BODY_MAX = 65_536
_TAR: dict[str, Any] = {"application/x-tar": {}, "application/json": {}}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _answers(description: str, content: dict[str, Any], status: int = 200) -> dict[int | str, Any]:
    return {status: {"description": description, "content": content}, 404: {"description": "There is none."}}


class Files:
    """The endpoints."""

    def __init__(self, settings: EndpointSettings, sessions: Sessions, running: Running, limits: Limits) -> None:
        self._settings = settings
        self._sessions = sessions
        self._limits = limits
        self._errands = Errands(settings, sessions, running)
        self._forks = Forks(sessions, self._errands, limits)

    def add_to(self, app: FastAPI, closed: list[Any]) -> None:
        """Mount them. They come before the conversation itself, whose id may be all of a path."""
        tags: list[str | Enum] = ["Conversations"]

        def add(path: str, endpoint: Any, method: str, responses: dict[int | str, Any], **more: Any) -> None:
            app.router.add_api_route(
                path, endpoint, methods=[method], responses=responses, dependencies=closed, tags=tags,
                route_class_override=RawRoute, **more,
            )  # fmt: skip

        shown = _answers("The messages.", {"application/json": {}})
        forked = _answers("The new conversation.", {"application/json": {}}, 201)
        added: dict[int | str, Any] = {200: {"description": "Replaced."}, 201: {"description": "Added."}}
        body = {"requestBody": {"required": False, "content": {"application/json": {"schema": _fork_schema()}}}}
        add(MESSAGES, self.messages, "GET", shown)
        add(FORK, self.fork, "POST", forked, openapi_extra=body, status_code=201)
        add(FILES, self.files, "GET", _answers("A tar archive, or a page of the listing.", _TAR))
        add(FILE, self.file, "GET", _answers("The file.", _BYTES))
        add(FILE, self.put_file, "PUT", added, openapi_extra={"requestBody": {"required": True, "content": _BYTES}})

    async def messages(self, request: Request, conversation_id: _Id) -> Response:
        """What was said, as Claude Code remembers it; its own tool calls and their results included."""
        key = key_of(request.scope, MESSAGES)
        await self._known(key)
        found = await read_messages(self._errands, key)
        return views.json_response(views.MessageList(found))

    async def fork(self, request: Request, conversation_id: _Id) -> Response:
        """A new conversation that remembers what this one did, up to a message, in a copy of its workspace.

        The workspace is copied as it is now, whatever the message. Turns of the old conversation wait meanwhile.
        """
        try:
            body = await read_body(request.receive, dict(request.scope["headers"]), _FORK_BODY_MAX)
            wanted = msgspec.json.decode(body or b"{}", type=views.ForkRequest)
        except ClientLeft:
            raise bad_request("The body ended before it was complete.", code="incomplete_body") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(f"The body is not valid: {error}.", code="invalid_body") from error
        old = await self._known(key_of(request.scope, FORK))
        grant = grant_of(request.scope)
        found = await self._forks.fork(old, wanted, grant.policy)
        return views.json_response(views.conversation(found, team=grant.admin), 201)

    async def files(
        self,
        request: Request,
        conversation_id: _Id,
        listing: Annotated[
            bool, Query(alias="list", description="A page of the listing instead of an archive.")
        ] = False,
        under: Annotated[str, Query(description="List this folder only.")] = "",
        after: Annotated[str, Query(description="The `last_path` of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=10_000, description="Most entries of a page.")] = 1000,
    ) -> Response:
        """The workspace as a tar archive, or what is in it."""
        key = key_of(request.scope, FILES)
        await self._known(key)
        query = {"list": "true", "under": under, "after": after, "limit": str(limit)} if listing else None
        return await self._relay(Errand(key, "GET", "/files", query))

    async def file(self, request: Request, conversation_id: _Id, path: _File) -> Response:
        """One file of the workspace. Symbolic links are not followed."""
        key = key_of(request.scope, FILE)
        await self._known(key)
        return await self._relay(Errand(key, "GET", "/files/" + file_of(request.scope)))

    async def put_file(self, request: Request, conversation_id: _Id, path: _File) -> Response:
        """Write a file of the workspace, whole and at once. An unknown conversation is begun by it."""
        key = key_of(request.scope, FILE)
        if not key.id:
            raise errors.conversation_not_found(key.id)
        limit = self._settings.max_body_bytes
        if int(request.headers.get("content-length", "0")) > limit:
            raise errors.body_too_large(limit)
        upload = Upload(request.stream(), limit=limit)
        with self._limits.beginning(grant_of(request.scope).policy, key.name, self._sessions.count):
            return await self._relay(Errand(key, "PUT", "/files/" + file_of(request.scope), body=upload))

    async def _known(self, key: ConversationKey) -> SessionView:
        found = await self._sessions.get(key) if key.id else None
        if found is None:
            raise errors.conversation_not_found(key.id)
        return found

    async def _relay(self, errand: Errand) -> Response:
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self._errands.run(errand))
            return Relayed(response, stack.pop_all())
        raise AssertionError("a stack of these swallows no exception")


def _fork_schema() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components([views.ForkRequest], ref_template="{name}")
    found: dict[str, Any] = schemas["ForkRequest"]
    return found
