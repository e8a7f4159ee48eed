"""The small endpoints: models, health, conversations, metrics. Convenience before speed."""

from __future__ import annotations

import time
from enum import Enum
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from claude_router import errors, team_errors, views
from claude_router.access import ALL, Access, grant_of, let_in, look_at
from claude_router.addresses import CONVERSATION, ROOT, key_of
from claude_router.docs import answers
from claude_router.files import Files
from claude_router.metrics import CONTENT_TYPE, RouterMetrics
from claude_router.running import Running
from claude_router.sessions import ConversationKey, SessionFailed, Sessions, Unreachable
from claude_router.settings import EndpointSettings
from claude_router.usage import By, Usage

JSON = "application/json"
_UNKNOWN = {404: "No conversation has this id."}
_Team = Annotated[str, Query(description="Another team's, for admins; `*`: all teams'.")]
_Id = Annotated[str, Path(description="The conversation's id, percent-encoded; it may hold slashes.")]


class Routes:
    """The endpoints, over one set of sessions."""

    def __init__(
        self,
        settings: EndpointSettings,
        sessions: Sessions,
        metrics: RouterMetrics,
        running: Running,
        access: Access,
        usage: Usage,
        version: str,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._metrics = metrics
        self._running = running
        self._version = version
        self._access = access
        self._usage = usage
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
        add, closed, limited = app.add_api_route, [Depends(self._enter)], [Depends(self._enter_limited)]
        operation: list[str | Enum] = ["Operation"]
        models: list[str | Enum] = ["OpenAI"]
        conversations: list[str | Enum] = ["Conversations"]
        add("/v1/models", self.models, dependencies=closed, tags=models, responses=answers(views.ModelList, "All."))
        add("/v1/models/{model:path}", self.model, dependencies=closed, tags=models, responses=model)
        add(ROOT, self.conversations, dependencies=closed, tags=conversations, responses=some)
        Files(self._settings, self._sessions, self._running, self._access.limits).add_to(app, limited)
        add(CONVERSATION, self.conversation, dependencies=closed, tags=conversations, responses=one)
        add(
            CONVERSATION,
            self.delete_conversation,
            methods=["DELETE"],
            dependencies=closed,
            tags=conversations,
            responses=gone,
        )
        metered: dict[int | str, Any] = {200: {"description": "As the gateway metered it.", "content": {JSON: {}}}}
        add("/v1/usage", self.usage, dependencies=closed, tags=operation, responses=metered)
        add("/health", self.health, tags=operation, responses=health)
        add("/metrics", self.metrics, tags=operation, responses={200: {"description": "Prometheus' text format."}})

    async def _enter(self, request: Request) -> None:
        let_in(request.scope, self._access.enter(dict(request.scope["headers"])))

    async def _enter_limited(self, request: Request) -> None:
        await self._enter(request)
        grant = grant_of(request.scope)
        if grant.teams:
            self._access.admit(grant)

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

    def _models(self, request: Request) -> list[views.ModelView]:
        policy = grant_of(request.scope).policy
        shown = policy.choice(self._settings.pool_of(policy.team).model_ids)
        return [views.ModelView(name, self._created) for name in shown]

    async def models(self, request: Request) -> Response:
        """The model names; with `:name` behind it, each also names a conversation."""
        return views.json_response(views.ModelList(self._models(request)))

    async def model(self, request: Request, model: str) -> Response:
        """One model name."""
        there = self._models(request)
        for found in there:
            if found.id == model:
                return views.json_response(found)
        raise errors.model_not_found(model, [found.id for found in there])

    async def usage(
        self,
        request: Request,
        by: Annotated[By, Query(description="What each row is of.")] = "day",
        since: Annotated[str, Query(description="From this time or date on, UTC.", max_length=40)] = "",
        until: Annotated[str, Query(description="Up to this time or date, UTC.", max_length=40)] = "",
        team: _Team = "",
    ) -> Response:
        """Tokens and money of one's own team, at list prices; for an admin of all teams, unless one is named."""
        tenant = self._tenant(request, team)
        grant = grant_of(request.scope)
        everybody = (
            tenant is None or not grant.teams or (grant.admin and not team and grant.tenant == grant.caller.team)
        )
        found = await self._usage.ask(by, team="" if everybody else tenant or "", since=since, until=until)
        return Response(found, media_type=JSON)

    def _tenant(self, request: Request, team: str) -> str | None:
        """Whose conversations are meant; None: all teams'. Raises ApiError (403)."""
        grant = grant_of(request.scope)
        everybodys = team == ALL and grant.teams
        if everybodys and not grant.admin:
            raise team_errors.team_not_allowed()
        tenant = None if everybodys else self._access.acting_for(grant, team).tenant
        look_at(request.scope, tenant)
        return tenant

    async def conversations(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most conversations in the answer.")] = 100,
        after: Annotated[str, Query(description="The `last_id` of the page before.")] = "",
        team: _Team = "",
    ) -> Response:
        """Conversations, live and suspended."""
        tenant = self._tenant(request, team)
        name = ConversationKey(tenant, after).name if after and tenant is not None else after
        found = await self._sessions.list(tenant, limit=limit + 1, after=name)
        shown = views.page(found, limit, team=grant_of(request.scope).admin, by_name=tenant is None)
        return views.json_response(shown)

    async def conversation(self, request: Request, conversation_id: _Id) -> Response:
        """One conversation."""
        key = key_of(request.scope)
        found = await self._sessions.get(key) if key.id else None
        if found is None:
            raise errors.conversation_not_found(key.id)
        return views.json_response(views.conversation(found, team=grant_of(request.scope).admin))

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
