"""What happens in a namespace, seen from outside: reflectors in a thread of their own, and waits for what they show."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from claude_crds.access import from_kubeconfig
from claude_crds.api import Api
from claude_crds.reflector import Reflector
from claude_crds.resources import CLAIMS, PODS, POOLS, SESSIONS, TEAMS, WORKERS_SELECTOR
from claude_crds.views import ClaudePool, ClaudeSession, ClaudeTeam, Object, PersistentVolumeClaim, Pod

T = TypeVar("T")

PATIENCE = 90.0
"""Far longer than anything should take, on a machine that is busy with other things."""


@dataclass
class Change:
    """A change of an object, as the API server told it."""

    at: float
    kind: str
    name: str
    new: Object | None


@dataclass
class Watch:
    """The namespace's objects now, and every change since the beginning."""

    sessions: Reflector[ClaudeSession]
    pools: Reflector[ClaudePool]
    pods: Reflector[Pod]
    claims: Reflector[PersistentVolumeClaim]
    teams: Reflector[ClaudeTeam]
    bell: threading.Condition = field(default_factory=threading.Condition)
    changes: list[Change] = field(default_factory=list)
    most_pods: int = 0
    """The most worker pods that there were at a time."""

    def until(self, what: str, true: Callable[[], T | None], seconds: float = PATIENCE) -> T:
        """What `true` gives, as soon as it is something; asked again at every change."""
        deadline = time.monotonic() + seconds
        with self.bell:
            while not (found := true()):
                left = deadline - time.monotonic()
                assert left > 0, f"not so within {seconds:g} s: {what}; {self.shown()}"
                self.bell.wait(min(left, 1.0))
            return found

    def shown(self) -> str:
        """All of it in a few lines, for a test that failed."""
        sessions = [f"{s.name} {s.status.phase} {s.status.pod_name} {s.status.message}" for s in self.sessions.items()]
        pods = [f"{p.name} {p.status.phase}{' leaving' if p.leaving else ''}" for p in self.pods.items()]
        return f"sessions: {sessions}; pods: {pods}"

    def session(self, conversation: str) -> ClaudeSession | None:
        return next((s for s in self.sessions.items() if s.spec.conversation_id == conversation), None)

    def phase(self, conversation: str) -> str:
        found = self.session(conversation)
        return found.status.phase if found else ""

    def until_phase(self, conversation: str, *phases: str, seconds: float = PATIENCE) -> ClaudeSession:
        """The conversation's session once its phase is one of these."""

        def reached() -> ClaudeSession | None:
            found = self.session(conversation)
            return found if found and found.status.phase in phases else None

        return self.until(f"{conversation} is {' or '.join(phases)}", reached, seconds)

    def until_warm(self, pool: str = "default", count: int = 1) -> None:
        self.until(f"{count} warm", lambda: (p := self.pools.get(pool)) is not None and p.status.warm >= count)

    def heard(self, kind: str, new: Object | None, old: Object | None) -> None:
        about = new or old
        assert about is not None
        with self.bell:
            self.changes.append(Change(time.monotonic(), kind, about.name, new))
            self.most_pods = max(self.most_pods, len(self.pods.items()))
            self.bell.notify_all()


@contextmanager
def watching(kubeconfig: Path, namespace: str) -> Iterator[Watch]:
    """Follow the namespace until left."""
    made: list[Watch] = []
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_follow(kubeconfig, namespace, made, ready, stop)), daemon=True
    )
    thread.start()
    assert ready.wait(PATIENCE), "the cluster's objects could not be listed"
    try:
        yield made[0]
    finally:
        stop.set()
        thread.join(PATIENCE)


async def _follow(
    kubeconfig: Path, namespace: str, made: list[Watch], ready: threading.Event, stop: threading.Event
) -> None:
    async with Api(lambda: from_kubeconfig(str(kubeconfig))) as api:
        watch = Watch(
            Reflector(api, SESSIONS, namespace),
            Reflector(api, POOLS, namespace),
            Reflector(api, PODS, namespace, label_selector=WORKERS_SELECTOR),
            Reflector(api, CLAIMS, namespace, label_selector=WORKERS_SELECTOR),
            Reflector(api, TEAMS, namespace),
        )
        watch.sessions.listen(lambda _, old, new: watch.heard("session", new, old))
        watch.pools.listen(lambda _, old, new: watch.heard("pool", new, old))
        watch.pods.listen(lambda _, old, new: watch.heard("pod", new, old))
        watch.claims.listen(lambda _, old, new: watch.heard("claim", new, old))
        watch.teams.listen(lambda _, old, new: watch.heard("team", new, old))
        reflectors = (watch.sessions, watch.pools, watch.pods, watch.claims, watch.teams)
        tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
        for reflector in reflectors:
            await reflector.wait_synced()
        made.append(watch)
        ready.set()
        await asyncio.to_thread(stop.wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
