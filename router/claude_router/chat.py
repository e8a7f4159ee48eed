"""The endpoints for turns, one for each API: who asks, what, of which conversation; then the relay.

Plain ASGI, and no FastAPI endpoint with dependencies: this is where a tenth of a millisecond counts. `app.py` documents
and mounts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from claude_router import audit, errors, team_errors
from claude_router.access import Access, Grant
from claude_router.answer import Answer, HeaderList
from claude_router.client import ClientLeft, ClientWatch, read_body
from claude_router.identity import ID_HEADER, Identity, from_header, header_value, identify
from claude_router.limits import Count, Held
from claude_router.logs import log_access
from claude_router.matching import Matching
from claude_router.metrics import RouterMetrics
from claude_router.relay import Relay, Turn
from claude_router.running import Running
from claude_router.sessions import ConversationKey
from claude_router.settings import EndpointSettings
from claude_router.workspaces import GitHosts, beginning, nowhere
from claude_worker.dialect import LAST, Dialect
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""Status in log and metrics when the client left before the end of its answer; nobody is there to receive it."""

_MOST_PARTS = 500_000
"""Objects in a body, those that its texts show included: read, one takes fifty times the memory of its two bytes."""

_FORWARDED = {
    name.encode(): name
    for name in ("idempotency-key", "x-claude-history", "x-parent-session-id", "x-stainless-retry-count")
}
"""The client's headers that mean something to a worker. Its Authorization and whatever else it sends stay here."""


class _Visit:
    """One request, as far as it is known: who asks, which model, which conversation, what it holds of limits."""

    __slots__ = ("grant", "held", "model", "name")

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.held: Held | None = None
        self.model = ""
        self.name = ""


class Chat:
    """The endpoints. `relay` is set while the app's lifespan runs."""

    relay: Relay

    def __init__(
        self,
        settings: EndpointSettings,
        metrics: RouterMetrics,
        running: Running,
        access: Access,
        matching: Matching,
        count: Count,
        *,
        audited: bool = False,
        git_hosts: GitHosts = nowhere,
    ) -> None:
        """`count`: of `Sessions`. `audited`: whether each request has a line in the audit log."""
        self._settings = settings
        self._metrics = metrics
        self._running = running
        self.access = access
        self._matching = matching
        self._count = count
        self._audited = audited
        self._git_hosts = git_hosts
        self._keep = audit.TAIL if audited else LAST

    async def answer(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens, and count and log it."""
        began = time.perf_counter()
        answer = Answer(send, dialect, keep=self._keep)
        visit = _Visit()
        status = CLIENT_LEFT
        self._metrics.running.inc()
        try:
            with self._running:
                turn = await self._prepare(scope, receive, answer, visit)
                visit.name = turn.name
                self._running.begin(turn.name)
                async with ClientWatch(receive) as watch:
                    await self._run(turn, answer, watch)
                if turn.made_up and (tip := answer.tip):
                    self._matching.note(turn.key, tip)
                if not watch.left:
                    status = answer.status
        except ClientLeft:
            pass
        except ApiError as error:
            await answer.fail(error)
            status = answer.status
        except Exception:
            log.exception("chat request failed")
            await answer.fail(errors.internal_error())
            status = answer.status
        finally:
            self._metrics.running.dec()
            if visit.held is not None:
                visit.held.release()
            if visit.name:
                self._running.end(visit.name)
            self._account(scope, answer, visit, status, began)

    async def _run(self, turn: Turn, answer: Answer, watch: ClientWatch) -> None:
        """Relay the turn; its failures are answered here, while the client is still watched."""
        try:
            await self.relay.run(turn, answer)
        except ApiError as error:
            await answer.fail(error)
        except asyncio.CancelledError:
            if not watch.left:  # then it is the end of the server's grace: no silent end, not even now
                with contextlib.suppress(Exception):
                    await answer.fail(errors.shutting_down())
            raise
        except Exception:
            log.exception("turn failed", extra={"fields": {"conversation": turn.name}})
            await answer.fail(errors.internal_error())

    async def _prepare(self, scope: Scope, receive: Receive, answer: Answer, visit: _Visit) -> Turn:
        """The turn that the request asks for. Raises ApiError and ClientLeft."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        grant = visit.grant = self.access.enter(headers)
        if known := from_header(headers):
            answer.headers = [(ID_HEADER, header_value(known))]
        if self._running.draining:
            raise errors.shutting_down()
        limited: HeaderList = self.access.admit_turn(grant) if grant.teams else []
        answer.headers += limited
        body = await read_body(receive, headers, self._settings.max_body_bytes)
        if body.count(b"{") > _MOST_PARTS:
            raise errors.too_many_parts(_MOST_PARTS)
        request = answer.dialect.parse(body)
        identity = await self._identity(headers, request, grant.tenant)
        answer.headers = [(ID_HEADER, header_value(identity.id)), *limited]
        pool = self._settings.pool_of(grant.tenant)
        if not pool.offers(identity.model):
            raise errors.model_not_found(identity.model, grant.policy.choice(pool.model_ids))
        visit.model = identity.model
        key = await self._begin(headers, ConversationKey(grant.tenant, identity.id))
        if grant.teams:
            self._hold(grant, visit, key)
        return self._turn(headers, body, request, identity, key, answer.dialect.path)

    async def _begin(self, headers: dict[bytes, bytes], key: ConversationKey) -> ConversationKey:
        """The key, with what the conversation is to begin with. Raises ApiError (400) if that cannot be."""
        try:
            asked = beginning(headers, key.tenant, self._git_hosts)
        except ApiError:
            if await self._matching.knows(key):
                return key  # it has begun long since, and goes on whatever is allowed by now
            raise
        return dataclasses.replace(key, begins=asked)

    def _hold(self, grant: Grant, visit: _Visit, key: ConversationKey) -> None:
        """What the turn takes of its team's limits. Raises ApiError (403, 429)."""
        policy = grant.policy
        if not policy.may_ask_for(visit.model, self._settings.pool_of(grant.tenant).model_ids):
            raise team_errors.model_not_allowed(visit.model, policy.models)
        held = self.access.limits.hold(policy)
        held.turn(policy)
        visit.held = held
        self._metrics.team_turn(policy.team, 1)
        held.conversation(policy, key.name, self._count)

    async def _identity(self, headers: dict[bytes, bytes], request: ChatRequest, tenant: str) -> Identity:
        identity = identify(headers, request, tenant)
        if identity.source == "previous" and not await self._knows(identity, tenant):
            raise errors.previous_response_not_found()
        # A key whose conversation there is has been used: this is the same request again, whatever its history says.
        if not identity.made_up or (identity.source == "key" and await self._knows(identity, tenant)):
            return identity
        found = self._matching.find(tenant, request)
        return Identity(found.id, identity.model, "history") if found else identity

    async def _knows(self, identity: Identity, tenant: str) -> bool:
        return await self._matching.knows(ConversationKey(tenant, identity.id))

    def _turn(
        self,
        headers: dict[bytes, bytes],
        body: bytes,
        request: ChatRequest,
        identity: Identity,
        key: ConversationKey,
        path: str,
    ) -> Turn:
        forwarded = {
            "Content-Type": "application/json",
            "x-claude-model": identity.model,
            "x-claude-conversation": quote(identity.id, safe="", errors="surrogatepass"),
            "x-claude-request": os.urandom(16).hex(),
        }
        if identity.source == "session-header":
            forwarded["x-claude-client-session"] = "1"
        for raw, header in _FORWARDED.items():
            if raw in headers:
                forwarded[header] = headers[raw].decode("latin-1")
        return Turn(
            key=key,
            name=key.name,
            path=path,
            body=body,
            stream=bool(request.stream),
            headers=forwarded,
            deadline=asyncio.get_running_loop().time() + self._settings.pool_of(key.tenant).queue_timeout,
            made_up=identity.made_up,
        )

    def _account(self, scope: Scope, answer: Answer, visit: _Visit, status: int, began: float) -> None:
        seconds = time.perf_counter() - began
        waited = answer.first_byte - began if answer.first_byte else None
        path = answer.dialect.path
        self._metrics.answered(path, status, seconds)
        if waited is not None:
            self._metrics.first_byte.observe(waited)
        first = None if waited is None else round(waited * 1000, 1)
        grant, name, error = visit.grant, visit.name or None, answer.code or None
        team = grant.shown if grant else ""
        if team:
            self._leave(team, visit, status, error)
        log_access(
            "POST", path, status, seconds, conversation=name, first_byte_ms=first, error=error, team=team or None
        )
        if self._audited:
            audit.write(audit.Line(
                **audit.about(scope, grant, self.access), method="POST", route=path, conversation=name,
                model=visit.model or None, status=status, error=error, latency_ms=round(seconds * 1000, 1),
                first_byte_ms=first, **audit.spent_in(answer.tail).fields(),
            ))  # fmt: skip

    def _leave(self, team: str, visit: _Visit, status: int, error: str | None) -> None:
        """A request of a team is over."""
        if visit.held is not None:
            self._metrics.team_turn(team, -1)
        self._metrics.answered_team(team, status)
        if error and error in team_errors.OF_LIMITS and not visit.name:
            self._metrics.refused(team, error)
