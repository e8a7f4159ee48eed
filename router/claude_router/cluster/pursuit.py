"""The pursuit of a worker for one conversation, shared by all requests of this router that wait for it.

It is the router's half of the protocol in `claude_crds.asks`: one task that creates, asks and renews, while the copy
of the session, as the watch brings it, says what has come of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from claude_crds import asks
from claude_crds.access import AccessError
from claude_crds.api import Api
from claude_crds.errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, NotFound, Status, Unavailable
from claude_crds.reflector import Reflector, backoff
from claude_crds.resources import SESSIONS, Desired, Phase, timestamp
from claude_crds.views import ClaudeSession
from claude_router.cluster.leases import Leases, is_of
from claude_router.sessions import Beginning, ConversationKey, Lease, PoolExhausted, SessionFailed, Unreachable, taken

log = logging.getLogger(__name__)

T = TypeVar("T")

UNREACHABLE = "the cluster's API server cannot be reached"
LATER = "Conversations that have a worker go on; send this again in a moment."

_SILENT_SECONDS = 2.0
"""A request to the API server that has not been answered for so long is not going to be soon."""
_UNTIL_TOLD = 60.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the sessions are, and how fast things go there."""

    api: Api
    namespace: str
    pool: str
    sessions: Reflector[ClaudeSession]
    renew_seconds: float = asks.RENEW_SECONDS
    call_seconds: float = 10.0
    """Longest wait for an answer of the API server."""
    backoff: Callable[[int], float] = backoff
    now: Callable[[], float] = time.time
    """Unix time, for the stamps of asks."""
    home: Callable[[str], tuple[str, str]] = lambda tenant: ("", "")
    """Pool and team of a tenant's new conversations (`claude_router.teams.Teams.home`)."""

    async def call(self, request: Coroutine[Any, Any, ClaudeSession]) -> ClaudeSession:
        """Its answer, which the copy has learned. Raises ApiError and AccessError."""
        answer = await self.bounded(request)
        self.sessions.learn(answer)
        return answer

    async def bounded(self, request: Coroutine[Any, Any, T]) -> T:
        """Its answer. Raises ApiError and AccessError, nothing else."""
        try:
            async with asyncio.timeout(self.call_seconds):
                return await request
        except TimeoutError as error:
            raise Unavailable(Status(message=f"no answer within {self.call_seconds:g} s"), "the API server") from error

    async def patch(self, name: str, patch: Mapping[str, Any]) -> ClaudeSession:
        """See `call`."""
        return await self.call(self.api.patch(SESSIONS, self.namespace, name, patch))

    async def get(self, name: str) -> ClaudeSession:
        """The session as it is there. See `call`."""
        return await self.call(self.api.get(SESSIONS, self.namespace, name))


def _workspace(begins: Beginning) -> dict[str, Any]:
    """`spec.workspace` of a new session."""
    if begins.git is None:
        return {"empty": True}
    return {"git": {"url": begins.git.url, **({"ref": begins.git.ref} if begins.git.ref else {})}}


def trouble(error: ApiError | AccessError) -> str:
    """Why the API server did not do what it was asked, if that is likely to pass; empty if not."""
    if isinstance(error, AccessError) or error.status.code == 0:
        return UNREACHABLE
    if isinstance(error, Unavailable) or error.status.code == 401:
        return f"the cluster's API server answers with an error ({error.status.code}: {error.status.message})"
    return ""


class Pursuit:
    """See the module. `found` is the worker, or why there can be none; it is never cancelled."""

    def __init__(self, cluster: Cluster, leases: Leases, key: ConversationKey) -> None:
        self.waiting = 0
        self.found: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._cluster = cluster
        self._leases = leases
        self._key = key
        self._name = key.name
        self._bell = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._asked = ("", 0)
        """Uid and generation of our ask."""
        self._asks = 0
        self._ask_at = 0.0
        self._renew_at: float | None = None
        self._failures = 0
        self._trouble = ""
        self._calling: float | None = None
        self._task = asyncio.create_task(self._run())

    def stop(self) -> asyncio.Task[None]:
        """Ask and renew no more; the task is soon done."""
        self._task.cancel()
        return self._task

    def look(self) -> bool:
        """The session has changed: whether the worker is there. Whoever waits for it wakes."""
        self._bell.set()
        return self._lent()

    def _lent(self) -> bool:
        if not self.found.done() and (lease := self._leases.lend(self._key)):
            self.found.set_result(lease)
        return self.found.done()

    def fail(self, why: Exception) -> None:
        """There is nothing to wait for."""
        if not self.found.done():
            self.found.set_exception(why)
            self.found.exception()  # retrieved, should nobody be waiting any more
        self._bell.set()

    def starting(self) -> bool:
        """Whether a worker is on its way."""
        session = self._cluster.sessions.get(self._name)
        return session is not None and session.status.phase == Phase.STARTING

    def why_not(self) -> PoolExhausted:
        """What to tell a request that has waited long enough."""
        sessions = self._cluster.sessions
        silent = self._calling is not None and self._clock() - self._calling > _SILENT_SECONDS
        if self._trouble or silent or not sessions.synced or sessions.problem:
            return Unreachable(self._trouble or UNREACHABLE, advice=LATER)
        session = sessions.get(self._name)
        pool = f"ClaudePool {session.pool if session else self._cluster.pool}"
        advice = f"Try again later, or raise size or queueTimeout of {pool}."
        if session is None:
            return PoolExhausted("it is only being begun", advice=advice)
        if session.leaving:
            return PoolExhausted("it is being deleted, and begun anew after that", advice="Try again later.")
        match session.status.phase:
            case Phase.QUEUED:
                return PoolExhausted(session.status.message or f"{pool} has no room", advice=advice)
            case Phase.STARTING:
                more = f" ({session.status.message})" if session.status.message else ""
                return PoolExhausted(f"its worker is still on the way{more}", advice="Try again later.")
            case Phase.READY:
                return PoolExhausted("its worker refuses, and there is no other yet", advice="Try again later.")
            case Phase.SUSPENDING:
                return PoolExhausted("its last worker is still ending", advice="Try again later.")
        return PoolExhausted("the operator has not answered yet", advice="Try again later, or see whether it runs.")

    # -- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._cluster.sessions.wait_synced()
            while not self.found.done():
                self._bell.clear()
                pause = await self._try()
                try:
                    async with asyncio.timeout(pause):
                        await self._bell.wait()
                except TimeoutError:
                    pass
        except Exception as error:
            log.exception("the pursuit of a worker failed", extra={"fields": {"conversation": self._name}})
            self.fail(error)

    async def _try(self) -> float:
        """One step, and the seconds until the next one if nothing happens before."""
        self._calling = self._clock()
        try:
            pause = await self._step()
        except (AlreadyExists, NotFound, Conflict):
            pause = self._failed(None)
        except (ApiError, AccessError) as error:
            pause = self._failed(error)
        except SessionFailed as error:
            self.fail(error)
            pause = 0.0
        else:
            self._failures, self._trouble = 0, ""
        finally:
            self._calling = None
        return pause

    def _failed(self, error: ApiError | AccessError | None) -> float:
        """The pause after it; None: our copy was an old one, which the watch is about to renew."""
        self._failures += 1
        pause = self._cluster.backoff(self._failures)
        self._trouble = ""
        if error is None:
            return pause
        if isinstance(error, Invalid | Forbidden):
            self.fail(SessionFailed(error.status.message))
            return 0.0
        self._trouble = trouble(error) or f"the cluster's API server refuses: {error}"
        # Once: there may be many of these, and the reflectors tell how it goes on.
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        fields = {"conversation": self._name, "reason": str(error)}
        log.log(level, "no worker can be asked for", extra={"fields": fields})
        return max(pause, getattr(error, "retry_after", None) or 0.0)

    async def _step(self) -> float:
        session = self._cluster.sessions.get(self._name)
        now = self._clock()
        if self._lent():
            return 0.0
        if session is None:
            await self._create()
            return 0.0
        if not is_of(session, self._key):
            raise taken()
        if session.leaving:
            return _UNTIL_TOLD
        uid, generation = self._asked
        ours = uid == session.metadata.uid
        if ours and session.status.phase == Phase.FAILED and asks.answered(session, generation):
            self.fail(SessionFailed(session.status.message or "its worker cannot be started"))
            return 0.0
        if self._renew_at is None:
            self._renew_at = now + self._due_in(session)
        # While the copy is older than our ask, it cannot tell what came of it.
        if asks.must_ask(session) and not (ours and session.metadata.generation < generation):
            if now < self._ask_at:
                return self._ask_at - now
            self._note(await self._cluster.patch(self._name, asks.ask(self._cluster.now())))
        elif now >= self._renew_at:
            await self._cluster.patch(self._name, asks.renewal(self._cluster.now()))
            self._renew_at = self._clock() + self._cluster.renew_seconds
        pause = self._renew_at - now
        suspected = self._leases.suspected(self._name)
        return max(0.0, min(pause, suspected) if suspected else pause)

    def _due_in(self, session: ClaudeSession) -> float:
        """When another's ask has to be renewed by us. Its stamp is of another clock: what is wrong costs one write."""
        stamp = session.spec.last_request_time
        age = self._cluster.now() - stamp.timestamp() if stamp else self._cluster.renew_seconds
        return min(max(0.0, self._cluster.renew_seconds - age), self._cluster.renew_seconds)

    async def _create(self) -> None:
        pool, team = self._cluster.home(self._key.tenant)
        spec = {
            "conversationID": self._key.id,
            "tenant": self._key.tenant,
            **({"team": team} if team else {}),
            **({"workspace": _workspace(begins)} if (begins := self._key.begins) else {}),
            "poolRef": {"name": pool or self._cluster.pool},
            "desiredState": Desired.RUNNING,
            "lastRequestTime": timestamp(self._cluster.now()),
        }
        body = {"metadata": {"name": self._name}, "spec": spec}
        try:
            made = self._cluster.api.create(SESSIONS, self._cluster.namespace, body)
            self._note(await self._cluster.call(made))
        except AlreadyExists:
            # Another router's. Usually the watch has told of it by now; if it lags, this is sooner.
            await self._cluster.get(self._name)
            raise
        except NotFound as error:
            raise SessionFailed(f"the cluster knows no ClaudeSessions here: {error.status.message}") from error
        except UnicodeEncodeError as error:
            raise SessionFailed("its id is no text that can be stored") from error

    def _note(self, asked: ClaudeSession) -> None:
        """We have asked, and this came back."""
        now = self._clock()
        self._asked = (asked.metadata.uid, asked.metadata.generation)
        self._renew_at = now + self._cluster.renew_seconds
        # An operator that answers each ask with Suspended must not make us ask as fast as we can.
        self._asks += 1
        self._ask_at = now + self._cluster.backoff(self._asks)
