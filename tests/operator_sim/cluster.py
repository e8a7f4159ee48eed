"""A simulated cluster: API server, kubelet, workers, and the real operator and router's sessions over it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiohttp
import pytest

from claude_crds.api import Api
from claude_crds.resources import SESSION_LABEL
from claude_operator import keeper, notes, operations, publish, slots, teams, term
from claude_operator.metrics import OperatorMetrics
from claude_operator.settings import OperatorSettings
from claude_operator.term import Term
from claude_router.cluster.sessions import KubernetesSessions, Pace
from claude_router.sessions import ConversationKey, SessionFailed
from crds.fake_api import Json
from operator_sim.api import CLAIM, NAMESPACE, POD, POOL, SESSION, SimApi
from operator_sim.kubelet import Kubelet
from operator_sim.laws import Laws
from operator_sim.worker import Worker

KEY = b"k" * 32
PATIENCE = 30.0
_NUMBERS = itertools.count()


def hurry(
    patch: pytest.MonkeyPatch, *, hold: float = 0.1, after_error: float = 0.05, pool_interval: float = 0.05
) -> None:
    """The operator's own pauses, shortened: nothing here takes as long as on a real cluster."""
    for module in (keeper, slots, operations):
        patch.setattr(module, "HOLD_SECONDS", hold)
    patch.setattr(keeper, "_REFILL_SECONDS", 0.01)
    patch.setattr(keeper, "_AFTER_ERROR_SECONDS", after_error)
    patch.setattr(operations, "_AFTER_ERROR_SECONDS", after_error)
    patch.setattr(notes, "FIRST_DELAY_SECONDS", after_error)
    patch.setattr(publish, "_POOL_INTERVAL_SECONDS", pool_interval)
    patch.setattr(term, "FLUSH_SECONDS", 0.1)
    patch.setattr(teams, "INTERVAL_SECONDS", 0.02)


def name(conversation: str) -> str:
    return ConversationKey("default", conversation).name


class Operator:
    """One operator process: its term of leadership, its connection, and its death."""

    def __init__(self, api: SimApi, **settings: Any) -> None:
        self._server = api
        self.expected: set[str] = set()
        """Kinds of errors that the test itself provokes."""
        self.agent = f"operator-{next(_NUMBERS)}"
        self.api = Api(api.loader, user_agent=self.agent)
        made = OperatorSettings(**{
            "worker_image": "img", "worker_key_file": "key", "start_timeout": 30.0, "status_interval": 0.1, **settings,
        })  # fmt: skip
        self._metrics = OperatorMetrics()
        self.term = Term(self.api, NAMESPACE, made, KEY, self._metrics, lambda: None)
        self._began = asyncio.create_task(self.term.begin())

    async def begun(self) -> None:
        await asyncio.shield(self._began)

    def unforeseen(self) -> list[str]:
        """Kinds of errors that nobody thought of, which did happen."""
        value = self._metrics.registry.get_sample_value
        kinds = {"act", "round", "sweep"} - self.expected
        return [kind for kind in sorted(kinds) if value("claude_operator_errors_total", {"kind": kind})]

    async def end(self) -> None:
        """SIGTERM."""
        self._began.cancel()
        await asyncio.gather(self._began, return_exceptions=True)
        await self.term.end()
        await self.api.close()

    async def kill(self) -> None:
        """SIGKILL: nothing that it sends arrives any more, nor what is answered to it."""
        self._server.dead.add(self.agent)
        self._began.cancel()
        t = self.term
        tasks = [self._began, *t._tasks, *(task for k in t._keepers.values() for task in k.state.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(k.end() for k in t._keepers.values()))
        await t.world.end()
        await t._workers.close()
        await self.api.close()


class Lost(Exception):
    """A turn was cut off, or nobody took it."""


@dataclass
class Cluster:
    """What a test has in its hands."""

    api: SimApi
    kubelet: Kubelet
    laws: Laws
    router: KubernetesSessions
    http: aiohttp.ClientSession
    operator: Operator
    settings: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    """Attempts by turn."""

    session_kind: ClassVar[str] = SESSION

    # -- what is there -------------------------------------------------------------------------------------------

    def session(self, conversation: str) -> Json:
        return self.api.get(SESSION, name(conversation)) or {}

    def status(self, conversation: str) -> Json:
        found: Json = self.session(conversation).get("status", {})
        return found

    def phase(self, conversation: str) -> str:
        return str(self.status(conversation).get("phase", ""))

    def reason(self, conversation: str) -> str:
        return str(self.status(conversation).get("conditions", [{}])[0].get("reason", ""))

    def pods(self, conversation: str | None = None) -> list[str]:
        """Names of pods: of the conversation's, or all."""
        wanted = None if conversation is None else name(conversation)
        all_ = self.api.all(POD)
        return [
            p["metadata"]["name"]
            for p in all_
            if wanted is None or p["metadata"]["labels"].get(SESSION_LABEL) == wanted
        ]

    def spares(self) -> list[str]:
        """Spares whose worker runs."""
        all_ = self.api.all(POD)
        free = [p["metadata"]["name"] for p in all_ if SESSION_LABEL not in p["metadata"]["labels"]]
        return [pod for pod in free if pod in self.kubelet.workers]

    def claims(self) -> list[str]:
        return sorted(self.api.names(CLAIM))

    def worker(self, conversation: str) -> Worker:
        [pod] = self.pods(conversation)
        return self.kubelet.workers[pod]

    @staticmethod
    def loop_time() -> float:
        return asyncio.get_running_loop().time()

    def leaving(self, pod: str) -> bool:
        return bool((self.api.get(POD, pod) or {"metadata": {}})["metadata"].get("deletionTimestamp"))

    def pool_status(self) -> Json:
        found: Json = (self.api.get(POOL, "default") or {}).get("status", {})
        return found

    def pool_reason(self) -> str:
        """Of the pool's condition; empty before its first status."""
        conditions = self.pool_status().get("conditions", [])
        return str(conditions[0]["reason"]) if conditions else ""

    async def until(self, true: Callable[[], Any], what: str = "") -> None:
        """Return when it is true; looked at whenever anything changes. Fails at once when a law is broken."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    self.check()
                    self.api._changed.clear()
                    await self.api._changed.wait()
        except TimeoutError:
            raise AssertionError(f"never came: {what}\n{self.describe()}") from None

    async def phased(self, conversation: str, *phases: str) -> None:
        await self.until(lambda: self.phase(conversation) in phases, f"{conversation} {phases}")

    def check(self) -> None:
        odd = [what for worker in self.kubelet.every for what in worker.odd]
        assert not self.laws.broken + self.kubelet.killed_busy + odd, (self.laws.broken, self.kubelet.killed_busy, odd)

    def describe(self) -> str:
        sessions = [(s["metadata"]["name"], s["spec"], s.get("status")) for s in self.api.all(SESSION)]
        pods = [(p["metadata"]["name"], p["metadata"].get("deletionTimestamp"), p.get("status", {}).get("phase"))
                for p in self.api.all(POD)]  # fmt: skip
        return f"sessions {sessions}\npods {pods}\nclaims {self.claims()}\npool {self.pool_status()}"

    # -- what people and clients do ------------------------------------------------------------------------------

    def pool(self, pool: str = "default", **spec: Any) -> None:
        """Make or edit it."""
        old = (self.api.get(POOL, pool) or {}).get("spec", {})
        body = {"metadata": {"name": pool}, "spec": {"size": 2, "warm": 0, **old, **spec}}
        kept = self.api.get(POOL, pool)
        self.api.put(POOL, {**body, "status": kept["status"]} if kept and "status" in kept else body)

    async def turn(self, conversation: str, turn: str = "", *, attempts: int = 20, wait: float = PATIENCE) -> int:
        """One request, as the router relays it; how often it was sent. Raises Lost."""
        turn = turn or f"t{next(_NUMBERS)}"
        key = ConversationKey("default", conversation)
        deadline = asyncio.get_running_loop().time() + wait
        for attempt in range(1, attempts + 1):
            lease = await self.router.acquire(key, deadline=deadline)
            headers = {"Authorization": f"Bearer {lease.token}"}
            body = {"turn": turn, "conversation": conversation}
            try:
                async with self.http.post(
                    f"{lease.endpoint}/v1/chat/completions", json=body, headers=headers
                ) as answer:
                    if answer.headers.get("x-claude-turn") != "not-started":
                        assert answer.status == 200, answer.status
                        assert (await answer.json())["turn"] == turn
                        return attempt
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                pass
            except aiohttp.ClientError as error:
                raise Lost(f"{turn} of {conversation} was cut off: {error!r}") from error
            self.router.gone(key, lease)
            await asyncio.sleep(0)
        raise Lost(f"{turn} of {conversation} was refused {attempts} times")

    def request(self, conversation: str, turn: str = "", **options: Any) -> asyncio.Task[int]:
        """One that runs beside the test."""
        task = asyncio.create_task(self.turn(conversation, turn, **options))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def eventually(self, conversation: str, turn: str = "") -> None:
        """Requests until one is served: a back-off answers with the failure, and a worker may be about to end."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.turn(conversation, turn)
                except (SessionFailed, Lost):
                    continue
                return

    async def held(self, conversation: str, turn: str = "") -> tuple[Worker, asyncio.Task[int]]:
        """A turn that runs until the worker is released."""
        await self.turn(conversation)
        worker = self.worker(conversation)
        worker.holding = True
        task = self.request(conversation, turn)
        await self.until(lambda: worker.busy, "busy")
        return worker, task

    def suspend(self, conversation: str) -> None:
        """A person's desiredState."""
        spec = {**self.session(conversation)["spec"], "desiredState": "Suspended"}
        self.api.patch(SESSION, name(conversation), spec=spec)

    def delete_session(self, conversation: str) -> None:
        self.api.begin_deletion(SESSION, name(conversation))

    async def another_operator(self, **settings: Any) -> None:
        """The next one; the one before must have been killed or ended."""
        self.operator = Operator(self.api, **{**self.settings, **settings})
        await self.operator.begun()


@contextlib.asynccontextmanager
async def cluster(*, pool: dict[str, Any] | None = None, begun: bool = True, **settings: Any) -> AsyncIterator[Cluster]:
    """A cluster with a pool, an operator and a router. At its end the laws must have held."""
    logging.getLogger("claude_operator").setLevel(logging.WARNING)
    api = SimApi()
    async with api, Api(api.loader, user_agent="router") as link, aiohttp.ClientSession() as http:
        laws, kubelet = Laws(api), Kubelet(api)
        pace = Pace(start=PATIENCE, grace=PATIENCE, suspect=0.02)
        router = KubernetesSessions(link, NAMESPACE, "default", KEY, pace=pace, backoff=lambda _: 0.01)
        router.begin()
        made = Cluster(api, kubelet, laws, router, http, Operator(api, **settings), settings)
        if pool is not None:
            made.pool(**pool)
        try:
            if begun:
                await made.operator.begun()
            yield made
            made.check()
            assert made.operator.unforeseen() == []
        finally:
            await made.operator.end()
            await router.close()
            await kubelet.close()
