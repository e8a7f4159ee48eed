"""The small endpoints: models, health, conversations, metrics. Convenience before speed."""

from __future__ import annotations

import time
from enum import Enum
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from claude_router import errors, views
from claude_router.addresses import CONVERSATION, ROOT, key_of
from claude_router.auth import ApiKeys
from claude_router.docs import answers
from claude_router.files import Files
from claude_router.metrics import CONTENT_TYPE, RouterMetrics
from claude_router.running import Running
from claude_router.sessions import LOCAL_TENANT, ConversationKey, SessionFailed, Sessions, Unreachable
from claude_router.settings import EndpointSettings

_UNKNOWN = {404: "No conversation has this id."}
_Id = Annotated[str, Path(description="The conversation's id, percent-encoded; it may hold slashes.")]


class Routes:
    """The endpoints, over one set of sessions."""

    def __init__(
        self,
        settings: EndpointSettings,
        sessions: Sessions,
        metrics: RouterMetrics,
        running: Running,
        keys: ApiKeys,
        version: str,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._metrics = metrics
        self._running = running
        self._version = version
        self._keys = keys
        self._created = int(time.time())
        self._started = time.monotonic()

    def add_to(self, app: FastAPI) -> None:
        """Mount them all, those that need a key behind its check."""
        model = answers(views.ModelView, "The model.", errors={404: "Unknown model."})
        health = {**answers(views.Health, "All is well."), 503: {"description": "It is not; `error` says why."}}
        some = answers(views.ConversationList, "One page of them.")
        one = answers(views.ConversationView, "The conversation.", errors=_UNKNOWN)
        gone = answers(views.ConversationGone, "Done.", errors=_UNKNOWN)
        # Straight on the app, not by a router of their own: so that `app.routes` shows every path's methods.
        add, closed = app.add_api_route, [Depends(self._check_key)]
        operation: list[str | Enum] = ["Operation"]
        models: list[str | Enum] = ["OpenAI"]
        conversations: list[str | Enum] = ["Conversations"]
        add("/v1/models", self.models, dependencies=closed, tags=models, responses=answers(views.ModelList, "All."))
        add("/v1/models/{model:path}", self.model, dependencies=closed, tags=models, responses=model)
        add(ROOT, self.conversations, dependencies=closed, tags=conversations, responses=some)
        Files(self._settings, self._sessions, self._running).add_to(app, closed)
        add(CONVERSATION, self.conversation, dependencies=closed, tags=conversations, responses=one)
        add(
            CONVERSATION,
            self.delete_conversation,
            methods=["DELETE"],
            dependencies=closed,
            tags=conversations,
            responses=gone,
        )
        add("/health", self.health, tags=operation, responses=health)
        add("/metrics", self.metrics, tags=operation, responses={200: {"description": "Prometheus' text format."}})

    async def _check_key(self, request: Request) -> None:
        self._keys.check(dict(request.scope["headers"]))

    async def health(self) -> Response:
        """Whether turns can be served; needs no API key."""
        found = views.health(
            await self._sessions.stats(),
            version=self._version,
            uptime=time.monotonic() - self._started,
            running=self._running.count,
            ending=self._running.ending,
        )
        return views.json_response(found, 200 if found.status in ("ok", "degraded") else 503)

    async def metrics(self) -> Response:
        """Metrics for Prometheus; needs no API key."""
        text = self._metrics.render(await self._sessions.stats())
        return Response(text, headers={"content-type": CONTENT_TYPE})

    def _models(self) -> list[views.ModelView]:
        return [views.ModelView(name, self._created) for name in self._settings.model_ids]

    async def models(self) -> Response:
        """The model names; with `:name` behind it, each also names a conversation."""
        return views.json_response(views.ModelList(self._models()))

    async def model(self, model: str) -> Response:
        """One model name."""
        for found in self._models():
            if found.id == model:
                return views.json_response(found)
        raise errors.model_not_found(model, self._settings.model_ids)

    async def conversations(
        self,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most conversations in the answer.")] = 100,
        after: Annotated[str, Query(description="The `last_id` of the page before.")] = "",
    ) -> Response:
        """Conversations, live and suspended."""
        name = ConversationKey(LOCAL_TENANT, after).name if after else ""
        found = await self._sessions.list(LOCAL_TENANT, limit=limit + 1, after=name)
        return views.json_response(views.page(found, limit))

    async def conversation(self, request: Request, conversation_id: _Id) -> Response:
        """One conversation."""
        key = key_of(request.scope)
        found = await self._sessions.get(key) if key.id else None
        if found is None:
            raise errors.conversation_not_found(key.id)
        return views.json_response(views.conversation(found))

    async def delete_conversation(
        self,
        request: Request,
        conversation_id: _Id,
        purge: Annotated[bool, Query(description="Remove memory and workspace as well.")] = False,
    ) -> Response:
        """Stop a conversation's worker; the next request resumes it. With `purge` its memory and workspace go too."""
        key = key_of(request.scope)
        act = self._sessions.purge if purge else self._sessions.suspend
        try:
            known = bool(key.id) and await act(key)
        except Unreachable as error:
            raise errors.unreachable(error) from error
        except SessionFailed as error:
            raise errors.session_failed(key.name, str(error)) from error
        if not known:
            raise errors.conversation_not_found(key.id)
        return views.json_response(views.ConversationGone(key.id, suspended=not purge, purged=purge))
