"""What is done to the cluster: each act is a few writes in an order that may be cut off anywhere.

Every write names the version or uid of what was decided on, so a stale decision ends in Conflict and is taken again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from claude_crds.api import Api
from claude_crds.errors import AlreadyExists, ApiError, BadRequest, Forbidden, Invalid, NotFound
from claude_crds.resources import CLAIMS, CONVERSATION_ANNOTATION, PODS, POOLS, SESSIONS, binding
from claude_crds.views import ClaudePool, ClaudeSession, PersistentVolumeClaim, PoolStatus, SessionStatus
from claude_operator import build, phases
from claude_operator.faults import Faults
from claude_operator.settings import OperatorSettings
from claude_operator.slots import Slot
from claude_operator.workers import Unreachable, Workers
from claude_operator.world import World

log = logging.getLogger(__name__)

_PURGE_GRACE_SECONDS = 2
"""A session was deleted: nobody needs what its worker still writes."""


class Acts:
    """The writes of one term of leadership. `lead` raises when this replica may not write any more."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        world: World,
        workers: Workers,
        settings: OperatorSettings,
        faults: Faults,
        lead: Callable[[], None],
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._world = world
        self._settings = settings
        self._faults = faults
        self._lead = lead
        self.workers = workers

    async def claim(self, slot: Slot, session: ClaudeSession) -> None:
        """Bind a warm spare. One write decides it: that of the pod's labels, for the version that was seen unbound."""
        assert slot.pod is not None
        self._faults.at("claim-before-patch", session)
        annotations = {CONVERSATION_ANNOTATION: session.spec.conversation_id}
        patch = {"metadata": {"labels": dict(binding(session)), "annotations": annotations}}
        version = slot.pod.metadata.resource_version
        self._lead()
        self._world.pods.learn(await self._api.patch(PODS, self._namespace, slot.name, patch, resource_version=version))
        self._faults.at("claim-after-patch", session)

    async def own_claim(self, claim: PersistentVolumeClaim, pool: ClaudePool, session: ClaudeSession) -> None:
        """Make a claimed spare's volume the session's: it goes with the session, and with nothing else."""
        owners = [build.claim_owner(pool, session)]
        patch = {"metadata": {"labels": dict(binding(session)), "ownerReferences": owners}}
        self._lead()
        uid = claim.metadata.uid
        self._world.claims.learn(await self._api.patch(CLAIMS, self._namespace, claim.name, patch, uid=uid))

    async def start(
        self, slot: Slot, pool: ClaudePool, session: ClaudeSession | None, status: SessionStatus | None
    ) -> None:
        """Make a worker: its claim if there is none, the session's status that names it, and then the pod.

        Raises BadTemplate before anything is written: else each attempt would leave a claim without a pod.
        """
        self._faults.at("start-before-status", session)
        token = self.workers.token(slot.name)
        made = build.template(pool, self._settings)
        body = build.pod(made, pool, slot.name, slot.claim, token, session)
        if self._world.claims.get(slot.claim) is None and not (session and session.spec.workspace_claim_name):
            await self._create_claim(build.claim(pool, slot.claim, session))
        if session is not None and status is not None:
            await self.write_status(session, status)
        self._faults.at("start-before-pod", session)
        self._lead()
        try:
            self._world.pods.learn(await self._api.create(PODS, self._namespace, body))
        except AlreadyExists:
            # An operator before us got this far, and died before its watch told it.
            self._world.pods.learn(await self._api.get(PODS, self._namespace, slot.name))
        except (BadRequest, Forbidden, Invalid):
            claim = self._world.claims.get(slot.claim)
            if session is None and claim is not None:
                # The next spare has another name, and so another claim. A session's has one name, and is used again.
                with contextlib.suppress(ApiError):
                    await self.delete_claim(claim)
            raise
        self._faults.at("start-after-pod", session)

    async def _create_claim(self, body: dict[str, Any]) -> None:
        self._lead()
        try:
            self._world.claims.learn(await self._api.create(CLAIMS, self._namespace, body))
        except AlreadyExists:
            self._world.claims.learn(await self._api.get(CLAIMS, self._namespace, body["metadata"]["name"]))

    async def drain(self, slot: Slot, session: ClaudeSession | None, status: SessionStatus | None) -> None:
        """Have a worker end: Suspending is told before it is asked, so that no request waits for it. Raises Busy."""
        if session is not None and status is not None:
            await self.write_status(session, status)
        self._faults.at("suspend-before-drain", session)
        if slot.word is not None or slot.proven:
            try:
                await self.workers.drain(slot.name, slot.endpoint)
            except Unreachable as error:
                # Then it is ended as a node's shutdown would end it: it has its grace to close the CLI.
                log.warning("worker did not drain", extra={"fields": {"pod": slot.name, "reason": str(error)}})
        self._faults.at("suspend-after-drain", session)
        await self.delete_pod(slot)
        self._faults.at("suspend-after-delete", session)

    async def delete_pod(self, slot: Slot, *, purge: bool = False) -> None:
        """Delete the pod; a spare's claim goes with it, and one that never got a volume."""
        if slot.pod is None:
            return
        slot.deleting = True
        grace = _PURGE_GRACE_SECONDS if purge else None
        self._lead()
        with contextlib.suppress(NotFound):
            await self._api.delete(PODS, self._namespace, slot.name, uid=slot.pod.metadata.uid, grace_seconds=grace)
        claim = self._world.claims.get(slot.claim)
        if claim is not None and (slot.session is None or slot.no_volume):
            await self.delete_claim(claim)

    async def delete_claim(self, claim: PersistentVolumeClaim) -> None:
        """Delete a claim that is no session's."""
        self._lead()
        with contextlib.suppress(NotFound):
            await self._api.delete(CLAIMS, self._namespace, claim.name, uid=claim.metadata.uid)

    async def delete_session(self, session: ClaudeSession) -> None:
        """Delete a session, with all that it owns, unless it has changed."""
        self._lead()
        version = session.metadata.resource_version
        await self._api.delete(SESSIONS, self._namespace, session.name, resource_version=version)

    async def write_status(self, session: ClaudeSession, status: SessionStatus) -> None:
        """Write the status onto the very version that it was decided on."""
        ready = bool(status.endpoint)
        if ready:
            self._faults.at("ready-before-status", session)
        self._lead()
        patch = phases.patch(status, metered=bool(self._settings.gateway_url))
        version = session.metadata.resource_version
        self._world.sessions.learn(
            await self._api.patch(
                SESSIONS, self._namespace, session.name, patch, subresource="status", resource_version=version
            )
        )
        if ready:
            self._faults.at("ready-after-status", session)

    async def write_pool_status(self, pool: ClaudePool, status: PoolStatus) -> None:
        """Write the pool's counts and condition."""
        self._lead()
        body = {
            "observedGeneration": status.observed_generation,
            "live": status.live,
            "busy": status.busy,
            "warm": status.warm,
            "suspended": status.suspended,
            "queued": status.queued,
            "conditions": [phases.observed_condition(c, status.observed_generation) for c in status.conditions],
        }
        self._world.pools.learn(
            await self._api.patch(POOLS, self._namespace, pool.name, {"status": body}, subresource="status")
        )
