"""Leader election by a Lease: of several operators, one acts.

A leader renews several times within the lease's duration, and stops acting by itself when it could not for two thirds
of it. That is sooner than others take over: they do so only when they themselves have seen the same renewal for all of
it, so no clocks of two machines are compared. As in client-go's leaderelection; and a leader that steps down empties
the Lease, so that the next one need not wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.errors import AlreadyExists, ApiError, Conflict, NotFound
from claude_crds.resources import Resource, timestamp
from claude_crds.views import Frozen, Object

log = logging.getLogger(__name__)

RENEW_PART, ACT_PART = 2 / 15, 10 / 15
"""Of the lease's duration, as in client-go: how often a leader renews, and how long it acts without."""


class LeaseSpec(Frozen, frozen=True):
    holder_identity: str = ""
    renew_time: str = ""
    lease_transitions: int = 0


class Lease(Object, frozen=True):
    spec: LeaseSpec = LeaseSpec()


LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases", Lease)


class NotLeading(Exception):
    """This replica may not write: another may have taken over."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A Lease as it was last seen, and since when (own clock) its holder has not renewed it."""

    version: str
    since: float


def may_take(lease: Lease | None, me: str, sight: Sight | None, now: float, duration: float) -> bool:
    """Whether the Lease is free for the taking: nobody's, ours, or not renewed for `duration` of our own time."""
    if lease is None or lease.spec.holder_identity in ("", me):
        return True
    return sight is not None and sight.version == lease.metadata.resource_version and (now - sight.since >= duration)


class Leadership:
    """`await gain()`, act as long as `check()` raises nothing, `await lost()`; `resign()` at the end."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        me: str,
        *,
        duration: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._me = me
        self._duration = duration
        self._renew = duration * RENEW_PART
        self._act = duration * ACT_PART
        self._clock = clock
        self._renewed: float | None = None
        self._lease: Lease | None = None
        self._sight: Sight | None = None
        self.tried_at = clock()
        """When it last asked the API server, on `clock`."""
        self.problem = ""
        """Why it could not; empty if it could."""

    @property
    def leading(self) -> bool:
        return self._renewed is not None and self._clock() - self._renewed < self._act

    def check(self) -> None:
        """Raises NotLeading when it is not certain that nobody else leads."""
        if not self.leading:
            raise NotLeading(f"{self._me} does not hold the lease {self._name}")

    async def gain(self) -> None:
        """Wait until this replica leads."""
        while not await self._try():  # noqa: ASYNC110 - the API server is what is asked
            await asyncio.sleep(self._renew)
        log.info("leading", extra={"fields": {"lease": self._name, "replica": self._me}})

    async def lost(self) -> None:
        """Renew until that fails for too long, or somebody else holds it."""
        while self.leading:
            await asyncio.sleep(self._renew)
            await self._try()
        log.warning("not leading any more", extra={"fields": {"lease": self._name, "replica": self._me}})
        self._renewed = None

    async def resign(self) -> None:
        """Let the next one lead at once."""
        lease, self._renewed = self._lease, None
        if lease is None or lease.spec.holder_identity != self._me:
            return
        try:
            version = lease.metadata.resource_version
            patch = {"spec": {"holderIdentity": ""}}
            await self._api.patch(LEASES, self._namespace, self._name, patch, resource_version=version)
        except (ApiError, AccessError) as error:
            log.warning("the lease was not given back: %s", error)

    async def _try(self) -> bool:
        """Take or renew it; whether this replica holds it now. Counts from before the request was sent."""
        began = self.tried_at = self._clock()
        try:
            async with asyncio.timeout(self._act / 2):
                self._lease = await self._write(began)
        except (ApiError, AccessError, TimeoutError) as error:
            if not isinstance(error, Conflict | AlreadyExists):
                self.problem = str(error) or "no answer in time"
                log.warning("the lease was not renewed: %s", self.problem)
            return False
        self.problem = ""
        if self._lease is None:
            self._renewed = None
            return False
        self._renewed = began
        return True

    async def _write(self, now: float) -> Lease | None:
        try:
            lease: Lease | None = await self._api.get(LEASES, self._namespace, self._name)
        except NotFound:
            lease = None
        if not may_take(lease, self._me, self._sight, now, self._duration):
            assert lease is not None
            if self._sight is None or self._sight.version != lease.metadata.resource_version:
                self._sight = Sight(lease.metadata.resource_version, now)
            return None
        spec = self._spec(lease)
        if lease is None:
            body = {"metadata": {"name": self._name}, "spec": spec}
            return await self._api.create(LEASES, self._namespace, body)
        version = lease.metadata.resource_version
        return await self._api.patch(LEASES, self._namespace, self._name, {"spec": spec}, resource_version=version)

    def _spec(self, lease: Lease | None) -> dict[str, Any]:
        moment = timestamp(time.time())
        spec: dict[str, Any] = {
            "holderIdentity": self._me, "leaseDurationSeconds": max(1, round(self._duration)), "renewTime": moment,
        }  # fmt: skip
        if lease is None or lease.spec.holder_identity != self._me:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = (lease.spec.lease_transitions if lease else 0) + 1
        return spec
