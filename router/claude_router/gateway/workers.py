"""Workers' credentials on a cluster: a token of the pod's, and a pod that is bound to a session this very moment."""

from __future__ import annotations

import asyncio
import contextlib

from claude_crds.reflector import Reflector
from claude_crds.resources import POOL_LABEL, SESSION_LABEL, SESSION_UID_LABEL
from claude_crds.views import ClaudeSession, Pod
from claude_router.gateway import errors
from claude_router.gateway.callers import NO_TEAM, Caller
from claude_router.gateway.verify import PodIdentity, TokenVerifier

PATIENCE_SECONDS = 2.0
"""How long our copy may lag behind what a new or just claimed pod already knows."""


class PodCredentials:
    """See `claude_router.gateway.callers.Credentials`. What the reflectors no longer hold is refused at once."""

    def __init__(
        self,
        verifier: TokenVerifier,
        namespace: str,
        pods: Reflector[Pod],
        sessions: Reflector[ClaudeSession],
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._verifier = verifier
        self._namespace = namespace
        self._pods = pods
        self._sessions = sessions
        self._patience = patience

    async def check(self, token: str) -> Caller:
        """See Credentials."""
        identity = await self._verifier.verify(token)
        if identity.namespace != self._namespace:
            raise errors.bad_credential("its pod is in another namespace")
        if not (self._pods.synced and self._sessions.synced):
            raise errors.not_ready("the cluster's resources have not been listed yet")
        found = self._bound(identity)
        if found is None:
            await self._catch_up(identity)
            found = self._bound(identity)
        if found is None:
            raise errors.bad_credential("its pod is bound to no session, or is being deleted")
        return found

    def _bound(self, identity: PodIdentity) -> Caller | None:
        pod = self._pods.get(identity.name)
        if pod is None or pod.metadata.uid != identity.uid or pod.leaving:
            return None
        labels = pod.metadata.labels
        session = self._sessions.get(labels.get(SESSION_LABEL, ""))
        if session is None or session.leaving or session.metadata.uid != labels.get(SESSION_UID_LABEL):
            return None
        pool = labels.get(POOL_LABEL, session.pool)
        return Caller(session.name, session.spec.team or NO_TEAM, pool, pod.name, session.metadata.uid)

    async def _catch_up(self, identity: PodIdentity) -> None:
        """Wait a little for a pod that is new, or that has just been claimed, and for its session."""

        def settled(pod: Pod | None) -> bool:
            if pod is None or pod.metadata.uid != identity.uid:
                return False
            return pod.leaving or SESSION_LABEL in pod.metadata.labels

        deadline = asyncio.get_running_loop().time() + self._patience
        with contextlib.suppress(TimeoutError):
            pod = await self._pods.wait_for(identity.name, settled, deadline=deadline)
            if pod is not None and not pod.leaving:
                name = pod.metadata.labels[SESSION_LABEL]
                await self._sessions.wait_for(name, lambda session: session is not None, deadline=deadline)
