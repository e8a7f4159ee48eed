"""`Sessions` on a cluster: the copy of the ClaudeSessions answers, and pursuits ask for workers.

Nothing here is the truth: it is all on the API server, and in a copy of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.cache import Change, Predicate
from claude_crds.errors import ApiError, Conflict, NotFound
from claude_crds.reflector import Reflector
from claude_crds.resources import POOLS, SESSIONS, Desired, Phase
from claude_crds.views import ClaudePool, ClaudeSession
from claude_router.cluster.leases import SUSPECT_SECONDS, Leases, is_of
from claude_router.cluster.pursuit import LATER, UNREACHABLE, Cluster, Pursuit, trouble
from claude_router.cluster.shown import Directory, Line, pool_stats, session_view
from claude_router.cluster.tips import ClusterTips
from claude_router.sessions import (
    ConversationKey,
    Lease,
    PoolExhausted,
    PoolStats,
    SessionFailed,
    SessionView,
    Unreachable,
)

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_MOST_CHECKS = 64
"""Sessions that are read from the API server at once because their workers refused."""
_DELETE_ATTEMPTS = 3
_LAST_WRITES_SECONDS = 2.0
"""When the router ends, for what its last turns have left to write."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things may take, in seconds."""

    start: float = 60.0
    """How much longer than its deadline a request waits when its worker is on the way: as long as a pod may boot."""
    grace: float = 30.0
    """Until a deletion or suspension is answered although it is not done yet."""
    suspect: float = SUSPECT_SECONDS


class KubernetesSessions:
    """See `claude_router.sessions.Sessions`. Made on the event loop; `run` follows the API server."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        pool: str,
        key: bytes,
        *,
        pace: Pace | None = None,
        busy: Callable[[str], bool] = lambda name: False,
        also: Sequence[Reflector[Any]] = (),
        **options: Any,
    ) -> None:
        """`key` is the workers'; `busy` says whether this router has a turn for the session; `options`: of Cluster.

        `also`: what else is to be followed, without which no turn can be served either.
        """
        self._pace = pace or Pace()
        self._busy = busy
        self.sessions = Reflector(api, SESSIONS, namespace)
        self.pools: Reflector[ClaudePool] = Reflector(api, POOLS, namespace)
        self._followed: tuple[Reflector[Any], ...] = (self.sessions, self.pools, *also)
        self._cluster = Cluster(api, namespace, pool, self.sessions, **options)
        self._leases = Leases(self.sessions, namespace, key, suspect_seconds=self._pace.suspect)
        self._directory = Directory()
        self._line = Line()
        self._pursuits: dict[str, Pursuit] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tips = ClusterTips(self._cluster, self._spawn)
        self.sessions.listen(self._directory.changed)
        self.sessions.listen(self._line.changed)
        self.sessions.listen(self._tips.changed)
        self.sessions.listen(self._changed)

    # -- life ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Follow the API server."""
        for reflector in self._followed:
            self._spawn(reflector.keep_running())

    async def close(self) -> None:
        """Whoever still waits is told that the server ends."""
        for pursuit in tuple(self._pursuits.values()):
            pursuit.fail(PoolExhausted("the server is shutting down", advice="Send this again in a moment."))
            self._keep(pursuit.stop())
        await self._tips.settle(_LAST_WRITES_SECONDS)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def synced(self) -> bool:
        """Whether sessions, pools and the like have been listed: turns can be served."""
        return all(reflector.synced for reflector in self._followed)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._keep(asyncio.create_task(work))

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- Sessions ------------------------------------------------------------------------------------------------

    async def acquire(self, key: ConversationKey, *, deadline: float) -> Lease:
        """See Sessions."""
        if lease := self._leases.lend(key):
            return lease
        pursuit = self._pursuits.get(key.name)
        if pursuit is None or pursuit.found.done():
            pursuit = self._pursuits[key.name] = Pursuit(self._cluster, self._leases, key)
        pursuit.waiting += 1
        try:
            return await self._await(pursuit, deadline)
        finally:
            pursuit.waiting -= 1
            if not pursuit.waiting:
                self._keep(pursuit.stop())
                if self._pursuits.get(key.name) is pursuit:
                    del self._pursuits[key.name]

    async def _await(self, pursuit: Pursuit, deadline: float) -> Lease:
        clock = asyncio.get_running_loop().time
        await asyncio.wait([pursuit.found], timeout=max(0.0, deadline - clock()))
        # The deadline is for room in the pool. A session that is starting has it, and its worker is on the way.
        end = clock() + self._pace.start
        while not pursuit.found.done() and pursuit.starting() and clock() < end:
            await asyncio.wait([pursuit.found], timeout=min(_LOOK_SECONDS, self._pace.start))
        if not pursuit.found.done():
            raise pursuit.why_not()
        match pursuit.found.exception():
            case None:
                return pursuit.found.result()
            case SessionFailed() as error:
                raise SessionFailed(str(error)) from error  # one of its own for each who waited
            case PoolExhausted() as error:
                raise PoolExhausted(str(error), advice=error.advice) from error
            case error:
                raise RuntimeError("the pursuit of a worker failed") from error

    def gone(self, key: ConversationKey, lease: Lease) -> None:
        """See Sessions."""
        self._leases.suspect(lease)
        # Should our watch lag, the API server knows better already.
        if self._leases.still(lease) and key.name not in self._checks and len(self._checks) < _MOST_CHECKS:
            check = self._checks[key.name] = self._spawn(self._check(key.name))
            check.add_done_callback(lambda _: self._checks.pop(key.name, None))

    def crowded(self, key: ConversationKey) -> bool:
        """See Sessions. By the copy: it costs no request."""
        session = self.sessions.get(key.name)
        return session is not None and session.status.phase == Phase.READY and self._line.others(session)

    def count(self, tenant: str, also: Collection[str] = ()) -> int:
        """See Sessions. Costs `also`, not the number of conversations."""
        return self._directory.count(tenant) + sum(self.sessions.get(name) is None for name in also)

    def git_hosts(self, tenant: str) -> Collection[str]:
        """From where the tenant's pool lets workspaces be cloned for clients."""
        name, _ = self._cluster.home(tenant)
        pool = self.pools.get(name or self._cluster.pool)
        return pool.spec.workspace.git_hosts if pool else ()

    async def list(self, tenant: str | None, *, limit: int, after: str = "") -> Sequence[SessionView]:
        """See Sessions. Costs the page, not the number of conversations."""
        found = (self.sessions.get(name) for name in self._directory.page(tenant, limit=limit, after=after))
        return [self._view(session) for session in found if session is not None]

    async def get(self, key: ConversationKey) -> SessionView | None:
        """See Sessions."""
        session = self.sessions.get(key.name)
        return self._view(session) if session and is_of(session, key) else None

    async def suspend(self, key: ConversationKey) -> bool:
        """See Sessions."""
        with _reached():
            try:
                session = self.sessions.get(key.name) or await self._cluster.get(key.name)
                if not is_of(session, key):
                    return False
                await self._cluster.patch(key.name, {"spec": {"desiredState": Desired.SUSPENDED}})
            except NotFound:
                return False
        await self._until(key.name, _stopped)
        return True

    async def purge(self, key: ConversationKey) -> bool:
        """See Sessions."""
        session = self.sessions.get(key.name)
        with _reached():
            for _ in range(_DELETE_ATTEMPTS):
                try:
                    # What is deleted is what was looked at, and not one that somebody has begun since.
                    session = session or await self._cluster.get(key.name)
                    if not is_of(session, key):
                        return False
                    uid = session.metadata.uid
                    await self._cluster.bounded(
                        self._cluster.api.delete(SESSIONS, self._cluster.namespace, key.name, uid=uid)
                    )
                except Conflict:
                    session = None
                except NotFound:
                    if session is None:
                        return False
                    break
                else:
                    break
        await self._until(key.name, lambda s: s is None or session is None or s.metadata.uid != session.metadata.uid)
        return True

    def note_tip(self, key: ConversationKey, tip: str) -> None:
        """See Sessions."""
        self._tips.note(key, tip)

    def find_by_tip(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        """See Sessions. By the copy alone: costs no request."""
        return self._tips.find(tenant, tips)

    async def stats(self) -> PoolStats:
        """See Sessions."""
        if not self.synced:
            why = self._problem or "no answer yet"
            return PoolStats(0, 0, 0, 0, 0, 0, error=f"the cluster's resources have not been listed yet: {why}")
        found = pool_stats(self._cluster.pool, self.pools.get(self._cluster.pool))
        if problem := self._problem:
            return replace(found, error=problem, degraded=True)
        return found

    @property
    def _problem(self) -> str:
        return next((r.problem for r in self._followed if r.problem), "")

    # -- parts ---------------------------------------------------------------------------------------------------

    def _changed(self, change: Change, old: ClaudeSession | None, new: ClaudeSession | None) -> None:
        about = new or old
        assert about is not None
        pursuit = self._pursuits.get(about.name)
        if pursuit is not None and pursuit.look():
            del self._pursuits[about.name]

    def _view(self, session: ClaudeSession) -> SessionView:
        return session_view(session, busy=self._busy(session.name))

    async def _check(self, name: str) -> None:
        with contextlib.suppress(ApiError, AccessError):
            await self._cluster.get(name)

    async def _until(self, name: str, true: Predicate[ClaudeSession]) -> None:
        """Wait for it, but not for ever: it comes about without us, too."""
        with contextlib.suppress(TimeoutError):
            await self.sessions.wait_for(name, true, deadline=asyncio.get_running_loop().time() + self._pace.grace)


def _stopped(session: ClaudeSession | None) -> bool:
    return session is None or session.status.phase == Phase.SUSPENDED or not session.status.pod_name


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """The API server's errors as those of the seam."""
    try:
        yield
    except (ApiError, AccessError) as error:
        log.warning("the API server did not do what a request needs", extra={"fields": {"reason": str(error)}})
        if why := trouble(error):
            raise Unreachable(why or UNREACHABLE, advice=LATER) from error
        raise SessionFailed(str(error)) from error
