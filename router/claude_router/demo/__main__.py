"""`python -m claude_router.demo [--port N] [--host H]`: serve the scripted model until the parent goes away.

Prints one line, `{"port": N}`, once it listens. With `--watch-stdin` it ends when its standard input closes, so that it
never outlives the process that started it, however that one died.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys

import uvicorn

from claude_router.demo.app import create_app


async def _serve(server: uvicorn.Server, sock: socket.socket, watch: bool) -> None:
    if watch:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

        async def until_closed() -> None:
            await reader.read()
            server.should_exit = server.force_exit = True

        watcher = asyncio.create_task(until_closed())
        await server.serve([sock])
        watcher.cancel()
    else:
        await server.serve([sock])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--watch-stdin", action="store_true")
    arguments = parser.parse_args()
    sock = socket.create_server((arguments.host, arguments.port), backlog=512)
    # asyncio sets this only on sockets whose protocol number is given; accepted ones inherit it from here.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning", access_log=False))
    asyncio.run(_serve(server, sock, arguments.watch_stdin))


if __name__ == "__main__":
    main()
