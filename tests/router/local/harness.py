"""A pool of fake workers, and the means to wait for what it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from claude_router.local.live import Live
from claude_router.local.pool import LocalSessions, PoolLimits
from claude_router.local.reconcile import Reconciler
from claude_router.local.store import Store
from claude_router.local.workers import Launch
from claude_router.sessions import ConversationKey, Lease

PATIENCE = 20.0
"""Seconds after which a test that waits for an event has failed."""

FAKE = (sys.executable, "-P", str(Path(__file__).with_name("fake_worker.py")))


def key(conversation: str) -> ConversationKey:
    return ConversationKey("default", conversation)


@dataclass
class Pool:
    """The sessions under test, and what a router would do with them."""

    sessions: LocalSessions
    store: Store
    starts_file: Path
    broken: Path
    http: aiohttp.ClientSession
    shifted: list[float]
    rounds: Rounds

    async def acquire(self, conversation: str, wait: float = PATIENCE) -> Lease:
        deadline = asyncio.get_running_loop().time() + wait
        return await self.sessions.acquire(key(conversation), deadline=deadline)

    async def send(self, lease: Lease, path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {lease.token}"}
        async with self.http.post(lease.endpoint + path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def turn(self, conversation: str, text: str = "hello") -> dict[str, Any]:
        """A whole turn, the pool knowing that it is over."""
        lease = await self.acquire(conversation)
        answer = await self.send(lease, say=text)
        live = next((w for w in self.live.values() if w.process.token == lease.token), None)
        if live is not None:
            await self.until(lambda: live.seen and live.seen.turns >= len(answer["memory"]) and not live.seen.busy)
        return answer

    @contextlib.asynccontextmanager
    async def running_turn(self, conversation: str) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
        """A turn that lasts to the end of the block, the pool knowing of it."""
        lease = await self.acquire(conversation)
        turn = asyncio.create_task(self.send(lease, hold=True, say="held"))
        await self.until(lambda: self.status(conversation).busy)
        try:
            yield turn
        finally:
            with contextlib.suppress(aiohttp.ClientError):  # it may be what the test has ended
                await self.send(lease, "/release")
            with contextlib.suppress(aiohttp.ClientError, AssertionError):
                await turn

    @property
    def live(self) -> dict[str, Live]:
        return self.sessions._workers.live

    def worker(self, conversation: str) -> Live:
        return next(w for w in self.live.values() if w.session == key(conversation).name)

    def status(self, conversation: str) -> Any:
        return self.worker(conversation).process.status

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait for something that the pool learns: looked at after every round of its loop."""
        async with asyncio.timeout(PATIENCE):
            while not (found := true()):
                await self.rounds.next()
            return found

    def starts(self) -> list[tuple[int, str]]:
        """(pid, volume) of every worker that was started, in order."""
        if not self.starts_file.exists():
            return []
        return [(int(p), v) for p, v in (line.split() for line in self.starts_file.read_text().splitlines())]

    def pass_time(self, seconds: float) -> None:
        """Set the pool's clock forward, and let it look at it."""
        self.shifted[0] += seconds
        self.sessions._workers.bell.set()


class Rounds:
    """Tells of every round that the pool's loop has made."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._made = asyncio.Event()
        self._round = reconciler._round
        reconciler._round = self._watched  # type: ignore[method-assign]

    def _watched(self, now: float) -> float | None:
        wake_at = self._round(now)
        self._made.set()
        self._made = asyncio.Event()
        return wake_at

    async def next(self) -> None:
        await self._made.wait()


@contextlib.asynccontextmanager
async def pool(
    folder: Path,
    *,
    size: int = 3,
    warm: int = 0,
    idle_timeout: float = 0.0,
    grace: float = PATIENCE,
    environment: dict[str, str] | None = None,
    close_grace: float = 0.0,
) -> AsyncIterator[Pool]:
    """A pool whose sessions live below `folder`; afterwards nothing of it runs."""
    starts, broken = folder / "starts", folder / "broken"
    store = Store.open(folder / "sessions-dir")
    base = {
        "PATH": os.environ["PATH"],
        "HOST": "127.0.0.1",
        "PORT": "0",
        "FAKE_STARTS": str(starts),
        "FAKE_BROKEN": str(broken),
    }
    shifted = [0.0]
    loop = asyncio.get_running_loop()
    sessions = LocalSessions(
        store,
        Launch(FAKE, base | (environment or {})),
        PoolLimits(size, warm, idle_timeout, grace),
        clock=lambda: loop.time() + shifted[0],
    )
    rounds = Rounds(sessions._reconciler)
    sessions.begin()
    async with aiohttp.ClientSession() as http:
        try:
            yield Pool(sessions, store, starts, broken, http, shifted, rounds)
        finally:
            await sessions.close(close_grace)
            store.close()
    assert sessions._workers.live == {}


def alive(pid: int) -> bool:
    """Whether a process exists, and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def exists(pid: int) -> bool:
    """Whether a process exists, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


def eventually(check: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Poll something that no event tells of, such as /proc, until it is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.02)
    return found
