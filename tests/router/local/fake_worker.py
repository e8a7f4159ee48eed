"""A worker without a CLI: the contract of `python -m claude_worker`, and a body that says what to do.

`POST /v1/chat/completions` with `{"say": TEXT}` answers what the volume remembers; `{"hold": true}` is a turn that
lasts until `POST /release` or SIGUSR1; `{"crash": true}` ends the process. From the environment: FAKE_STARTS (a file
that gets a line a start), FAKE_BROKEN (a file: while it exists, no start succeeds; its text says how), FAKE_CHILD
(leaves a process behind in a session of its own), FAKE_DEAF (ignores SIGTERM and the end of its standard input).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VOLUME = Path(os.environ["VOLUME_DIR"])
STATE = VOLUME / "state.json"


class FakeWorker:
    """One conversation's memory, and the status of a worker that keeps it."""

    def __init__(self, token: str, failed: str) -> None:
        self.token = token
        self.memory: list[str] = json.loads(STATE.read_text()) if STATE.exists() else []
        self.phase = "failed" if failed else "bound" if self.memory else "warm"
        self.error = failed or None
        self.running = 0
        self.last_active = 0.0
        self.changed = asyncio.Event()
        self.released = asyncio.Event()
        self.interrupted = asyncio.Event()
        self.over = asyncio.Event()

    def view(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "busy": self.running > 0,
            "queued": 0,
            "background_tasks": 0,
            "last_active": self.last_active,
            "turns": len(self.memory),
            "usage": {"input_tokens": 10 * len(self.memory), "output_tokens": 1, "cached_tokens": 0, "cost_usd": 0.5},
            "claude_session_id": "fake-session" if self.memory else None,
            "cli_version": "0.0-fake",
            "error": self.error,
        }

    def publish(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a connection that ends with its answer."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, _, target = head[0].rpartition(" ")[0].partition(" ")
        path, _, query = target.partition("?")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("authorization") != f"Bearer {self.token}":
            reply(writer, 401, {"error": {"message": "wrong token"}})
        elif path == "/status" and "watch=true" in query:
            await self.watch(writer)
        elif path == "/status":
            reply(writer, 200, self.view())
        elif (method, path) == ("POST", "/release"):
            self.released.set()
            reply(writer, 200, {})
        elif (method, path) == ("POST", "/drain"):
            await self.drain(writer, dict(p.split("=") for p in query.split("&") if p))
        elif (method, path) == ("POST", "/v1/chat/completions"):
            await self.chat(writer, json.loads(body))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def chat(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        if self.phase not in ("warm", "bound"):
            reply(writer, 503, {"error": {}}, "x-claude-turn: not-started\r\n")
            return
        if asked.get("crash"):
            print("the fake worker crashes as told", file=sys.stderr, flush=True)
            os._exit(3)
        self.running += 1
        self.over.clear()
        self.last_active = time.time()
        self.publish()
        await asyncio.sleep(asked.get("seconds", 0.0))
        if asked.get("hold"):
            waits = [asyncio.create_task(e.wait()) for e in (self.released, self.interrupted)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self.memory.append(asked.get("say", ""))
        STATE.write_text(json.dumps(self.memory))
        self.phase = self.phase if self.phase == "draining" else "bound"
        self.running -= 1
        self.last_active = time.time()
        known = {"memory": self.memory, "pid": os.getpid(), "volume": str(VOLUME), "environment": dict(os.environ)}
        reply(writer, 200, known | {"interrupted": self.interrupted.is_set()})
        if not self.running:
            self.over.set()
        self.publish()

    async def watch(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                changed = self.changed
                writer.write(json.dumps(self.view()).encode() + b"\n")
                await writer.drain()
                await changed.wait()

    async def drain(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> None:
        if self.running and query.get("force") != "true":
            reply(writer, 409, {"error": {"code": "worker_busy"}})
            return
        self.phase = "draining"
        self.publish()
        if self.running:
            try:
                await asyncio.wait_for(self.over.wait(), int(query["grace_ms"]) / 1000)
            except TimeoutError:
                self.interrupted.set()
                await self.over.wait()
        self.phase = "drained"
        self.publish()
        reply(writer, 200, {"drained": True})


def reply(writer: asyncio.StreamWriter, status: int, answer: Any, more: str = "") -> None:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n{more}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def start_as_told() -> str:
    """Note the start; end here if starts are to fail, or return the reason to report as phase `failed`."""
    if starts := os.environ.get("FAKE_STARTS"):
        with Path(starts).open("a") as file:
            file.write(f"{os.getpid()} {VOLUME.name}\n")
    if os.environ.get("FAKE_CHILD"):
        subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL)
    broken = Path(os.environ.get("FAKE_BROKEN", "/nonexistent"))
    how = broken.read_text() if broken.exists() else ""
    if how and not how.startswith("failed:"):
        sys.exit(how)
    return how.removeprefix("failed:")


async def serve() -> None:
    failed = start_as_told()
    worker = FakeWorker(sys.stdin.readline().strip(), failed)
    server = await asyncio.start_server(worker.answer, os.environ["HOST"], int(os.environ["PORT"]))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    deaf = bool(os.environ.get("FAKE_DEAF"))
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if deaf else stop.set)
    loop.add_signal_handler(signal.SIGUSR1, worker.released.set)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "pid": os.getpid()}), flush=True)
    ended = asyncio.create_task(reader.read())
    waits = {asyncio.create_task(stop.wait())} | (set() if deaf else {ended})
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(serve())
