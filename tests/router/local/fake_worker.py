"""A worker without a CLI: the contract of `python -m claude_worker`, and a body that says what to do.

`POST /v1/chat/completions` with `{"say": TEXT}` answers what the volume remembers; `{"hold": true}` is a turn that
lasts until `POST /release` or SIGUSR1; `{"crash": true}` ends the process. From the environment: FAKE_STARTS (a file
that gets a line a start), FAKE_BROKEN (a file: while it exists, no start succeeds; its text says how), FAKE_CHILD
(leaves a process behind in a session of its own), FAKE_DEAF (ignores SIGTERM and the end of its standard input).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

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

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return web.json_response({"error": {"message": "wrong token"}}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def chat(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if self.phase not in ("warm", "bound"):
            return web.json_response({"error": {}}, status=503, headers={"x-claude-turn": "not-started"})
        if asked.get("crash"):
            print("the fake worker crashes as told", file=sys.stderr, flush=True)
            os._exit(3)
        self.running += 1
        self.over.clear()
        self.last_active = time.time()
        self.publish()
        try:
            if asked.get("hold"):
                waits = [asyncio.create_task(e.wait()) for e in (self.released, self.interrupted)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.memory.append(asked.get("say", ""))
            STATE.write_text(json.dumps(self.memory))
            self.phase = self.phase if self.phase == "draining" else "bound"
            self.running -= 1
            self.last_active = time.time()
            if not self.running:
                self.over.set()
            self.publish()
        known = {"memory": self.memory, "pid": os.getpid(), "volume": str(VOLUME), "environment": dict(os.environ)}
        return web.json_response(known | {"interrupted": self.interrupted.is_set()})

    async def release(self, request: web.Request) -> web.Response:
        self.released.set()
        return web.json_response({})

    async def status(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            return web.json_response(self.view())
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            changed = self.changed
            await response.write(json.dumps(self.view()).encode() + b"\n")
            await changed.wait()

    async def drain(self, request: web.Request) -> web.Response:
        if self.running and request.query.get("force") != "true":
            return web.json_response({"error": {"code": "worker_busy"}}, status=409)
        self.phase = "draining"
        self.publish()
        if self.running:
            try:
                await asyncio.wait_for(self.over.wait(), int(request.query["grace_ms"]) / 1000)
            except TimeoutError:
                self.interrupted.set()
                await self.over.wait()
        self.phase = "drained"
        self.publish()
        return web.json_response({"drained": True})


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
    app = web.Application(middlewares=[worker.guard])
    app.router.add_post("/v1/chat/completions", worker.chat)
    app.router.add_post("/release", worker.release)
    app.router.add_get("/status", worker.status)
    app.router.add_post("/drain", worker.drain)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, os.environ["HOST"], int(os.environ["PORT"]))
    await site.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    deaf = bool(os.environ.get("FAKE_DEAF"))
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if deaf else stop.set)
    loop.add_signal_handler(signal.SIGUSR1, worker.released.set)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"port": runner.addresses[0][1], "pid": os.getpid()}), flush=True)
    ended = asyncio.create_task(reader.read())
    waits = {asyncio.create_task(stop.wait())} | (set() if deaf else {ended})
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(serve())
