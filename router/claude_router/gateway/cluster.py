"""What the gateway follows on the cluster, and what it writes there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from typing import Any

from claude_crds.api import Api
from claude_crds.errors import AlreadyExists
from claude_crds.events import event
from claude_crds.reflector import Reflector
from claude_crds.resources import COMPONENT_LABEL, EVENTS, PODS, POOLS, SESSIONS, TEAMS, WORKER
from claude_crds.views import ClaudeSession, ClaudeTeam
from claude_router.gateway.callers import Credentials
from claude_router.gateway.settings import GatewaySettings
from claude_router.gateway.status import MANAGER, News
from claude_router.gateway.teams import ClusterTeams, Teams
from claude_router.gateway.verify import TokenVerifier
from claude_router.gateway.workers import PodCredentials

log = logging.getLogger(__name__)

_COMPONENT = "claude-gateway"


class GatewayApi(Api):
    """The API server, with what the verifier needs."""

    async def public_keys(self) -> tuple[bytes, bytes]:
        """Discovery document and public keys of service account tokens. Raises ApiError."""
        discovery = await self._call("GET", "/.well-known/openid-configuration")
        # It makes no other kind, and says 406 to those who ask for plain JSON.
        return discovery, await self._call("GET", "/openid/v1/jwks", accept="application/jwk-set+json")


class Cluster:
    """Copies of pods, sessions, pools and teams. Made on the event loop."""

    def __init__(self, api: GatewayApi, namespace: str, settings: GatewaySettings) -> None:
        self._api = api
        self._namespace = namespace
        self.pods = Reflector(api, PODS, namespace, label_selector=f"{COMPONENT_LABEL}={WORKER}")
        self.sessions = Reflector(api, SESSIONS, namespace)
        self.pools = Reflector(api, POOLS, namespace)
        self.teams = Reflector(api, TEAMS, namespace)
        self._verifier = TokenVerifier(api.public_keys, audience=settings.audience, issuer=settings.issuer)
        self.credentials: Credentials = PodCredentials(self._verifier, namespace, self.pods, self.sessions)
        self.policies: Teams = ClusterTeams(
            self.teams.get, self.pools.get, lambda: tuple(self.teams.items()), settings.small_models
        )
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Follow the API server."""
        for reflector in (self.pods, self.sessions, self.pools, self.teams):
            self._tasks.append(asyncio.create_task(reflector.keep_running()))
        self._tasks.append(asyncio.create_task(self._verifier.prepare()))

    async def close(self) -> None:
        """Follow it no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def problem(self) -> str:
        """Why workers cannot be served; empty when they can. An API server that is away for a while is none."""
        reflectors = (self.pods, self.sessions, self.pools, self.teams)
        return next((r.problem or "not listed yet" for r in reflectors if not r.synced), self._verifier.problem)

    async def write_status(self, team: str, status: dict[str, Any]) -> None:
        """See `claude_router.gateway.status.Write`. What it says is the gateway's, all else is others'."""
        body = {"metadata": {"name": team}, "status": status}
        await self._api.apply(TEAMS, self._namespace, body, manager=MANAGER, subresource="status")

    async def write_session(self, session: ClaudeSession, status: dict[str, Any]) -> None:
        """See `claude_router.gateway.conversations.Write`."""
        body = {"metadata": {"name": session.name, "uid": session.metadata.uid}, "status": status}
        await self._api.apply(SESSIONS, self._namespace, body, manager=MANAGER, subresource="status")

    async def tell(self, team: ClaudeTeam, news: News) -> None:
        """See `claude_router.gateway.status.Tell`. Its name says what is told, so nothing is told twice."""
        told = f"{team.metadata.uid} {news.reason} {news.period} {team.spec.budget}"
        body = event(
            TEAMS, team, news.reason, news.message, now=time.time(), warning=news.warning, component=_COMPONENT,
            name=f"{team.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}",
        )  # fmt: skip
        with contextlib.suppress(AlreadyExists):
            await self._api.create(EVENTS, self._namespace, body)
