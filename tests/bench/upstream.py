"""`python -m bench.upstream`: a trivial OpenAI-like server; as fast as uvicorn is. Five chunks, or many for `long`."""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"x","choices":[{"index":0,'
    b'"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"x","choices":[{"index":0,'
    b'"delta":{},"finish_reason":"stop"}]}\n\n'
)
LONG_CHUNKS = 100_000


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(LONG_CHUNKS if b"long stream" in body else 5):
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": _LAST + b"data: [DONE]\n\n"})


def serve(application: object, lifespan: str = "off") -> None:
    """Listen on a free port, say which, and serve until standard input closes."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    config = uvicorn.Config(application, log_config=None, access_log=False, lifespan=lifespan)  # type: ignore[arg-type]
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve([sock]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = server.force_exit = True
        await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    serve(app)
