"""What holds for every server, whatever is sent to it; and a siege that sees to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from claude_worker.bounds import Bounds
from hostile.wire import Answer, Attack, Outcome, request, send

BOUNDS = Bounds(head_seconds=1.0, body_seconds=1.0, unread_seconds=1.0, write_seconds=1.5)
"""As in production, but for clocks that run faster."""
PATIENCE = 20.0
"""Seconds after which an attack hangs. They share one event loop with the server, and two slow processors."""
AT_ONCE = 24
_MOST_GROWTH_BYTES = 96 << 20
_SIGNS_OF_A_TRACEBACK = (b"Traceback", b'File "/', b"site-packages", b".py:")


@dataclass(frozen=True)
class Laws:
    """What may be answered, and what must be in no answer and no log. `wrong` says what is wrong with an error."""

    secrets: tuple[str, ...]
    wrong: Callable[[Answer], str]

    def broken(self, attack: Attack, outcome: Outcome) -> list[str]:
        """The laws that this outcome breaks."""
        found = []
        if outcome.hung:
            found.append(f"hung: {outcome.seconds:.1f} s")
        if outcome.strange:
            found.append(f"no HTTP: {outcome.strange[:100]!r}")
        for answer in outcome.answers:
            found += self._of(answer)
        for secret in (*(s.encode() for s in self.secrets), *_SIGNS_OF_A_TRACEBACK):
            if secret in outcome.raw:
                found.append(f"shows {secret!r}")
        return [f"{attack.name}: {text}" for text in found]

    def _of(self, answer: Answer) -> list[str]:
        if answer.status >= 500:
            return [f"{answer.status} {bytes(answer.body[:200])!r}"]
        if answer.status >= 400 and answer.whole and (why := self.wrong(answer)):
            return [f"{answer.status} {why}: {bytes(answer.body[:200])!r}"]
        return []


def wrong_openai(answer: Answer) -> str:
    """What is wrong with an error of OpenAI's form."""
    try:
        error = json.loads(answer.body)["error"]
        if set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"]:
            return "" if answer.headers["content-type"] == "application/json" else "has another type"
    except (ValueError, KeyError, TypeError):
        pass
    return "is no error object"


def wrong_anthropic(answer: Answer) -> str:
    """The same of Anthropic's."""
    try:
        found = json.loads(answer.body)
        if found["type"] == "error" and found["error"]["type"] and found["error"]["message"]:
            return "" if answer.headers["content-type"] == "application/json" else "has another type"
    except (ValueError, KeyError, TypeError):
        pass
    return "is no error object"


def wrong_either(answer: Answer) -> str:
    """The same where the path decides."""
    return wrong_anthropic(answer) and wrong_openai(answer)


class Logs(logging.Handler):
    """Everything that the server logs meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "aiohttp.server":  # what stands behind the server under siege
            self.records.append(record)

    def broken(self, secrets: Sequence[str]) -> list[str]:
        found = []
        for record in self.records:
            text = record.getMessage() + json.dumps(getattr(record, "fields", {}), default=str)
            if record.exc_info or record.levelno >= logging.ERROR:
                cause = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
                found.append(f"{record.name} logged {record.levelname}: {text[:200]} {cause[-1500:]}")
            found += [f"{record.name} logged {secret!r}" for secret in secrets if secret in text]
        return found


@contextlib.asynccontextmanager
async def serving(server: uvicorn.Server) -> AsyncIterator[int]:
    """The server on a port of its own."""
    from claude_router.serving import listen  # noqa: PLC0415 - not loaded before the test has set things up

    with listen("127.0.0.1", 0) as sock:
        task = asyncio.create_task(server.serve([sock]))
        try:
            async with asyncio.timeout(PATIENCE):
                while not server.started and not task.done():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            yield sock.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await task


async def besiege(
    server: uvicorn.Server, port: int, attacks: Iterable[Attack], laws: Laws, well: bytes
) -> list[Outcome]:
    """Send all of them, many at a time, and hold the server to the laws; `well` is a path that is answered with 200."""
    logs = Logs()
    root = logging.getLogger()
    root.addHandler(logs)
    level, root.level = root.level, logging.INFO
    try:
        await _healthy(port, well)
        before = _Held.now(server)
        broken: list[str] = []
        outcomes: list[Outcome] = []
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(attack: Attack) -> None:
            async with gate:
                outcome = await send(port, attack, PATIENCE)
            outcomes.append(outcome)
            broken.extend(laws.broken(attack, outcome))

        await asyncio.gather(*(one(attack) for attack in attacks))
        await _healthy(port, well)
        broken += await _leaked(server, before)
        broken += logs.broken(laws.secrets)
    finally:
        root.removeHandler(logs)
        root.level = level
    if broken:
        pytest.fail(f"{len(broken)} laws broken:\n" + "\n".join(sorted(set(broken))[:60]))
    return outcomes


async def _healthy(port: int, well: bytes) -> None:
    """It answers, and at once."""
    best = 1e9
    for _ in range(5):
        began = time.monotonic()
        outcome = await send(port, Attack("health", (request(b"GET", well, [(b"Connection", b"close")]),)), PATIENCE)
        best = min(best, time.monotonic() - began)
        assert [answer.status for answer in outcome.answers] == [200]
    assert best < 0.25


@dataclass(frozen=True)
class _Held:
    """What a server holds on to."""

    connections: int
    running: int
    tasks: int
    files: int
    memory: int

    @classmethod
    def now(cls, server: uvicorn.Server) -> _Held:
        state = server.server_state
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            len(state.connections),
            len(state.tasks),
            _tasks(),
            len(os.listdir("/proc/self/fd")),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )


def _tasks() -> int:
    """Without those of aiohttp's server, which stands behind the one under siege, for connections kept open."""
    named = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(not name.startswith("RequestHandler.") for name in named)


async def _leaked(server: uvicorn.Server, before: _Held) -> list[str]:
    """What is still held long after."""
    end = time.monotonic() + PATIENCE
    while True:
        gc.collect()
        now = _Held.now(server)
        found = [
            f"leaked {name}: {getattr(now, name)}, {getattr(before, name)} before"
            for name in ("connections", "running", "tasks", "files")
            if getattr(now, name) > getattr(before, name) + (8 if name == "files" else 0)
        ]
        if not found or time.monotonic() > end:
            break
        await asyncio.sleep(0.1)  # connections end by clocks
    if now.memory - before.memory > _MOST_GROWTH_BYTES:
        found.append(f"leaked memory: {(now.memory - before.memory) >> 20} MiB")
    return found
