"""Process 1 of a node: it makes the node's view of the file system, starts and stops its parts, and collects orphans.

The node is a process tree in namespaces of its own: processes, mounts, network. So whatever it does to interfaces,
packet filters and mounts is invisible to the host, and when this process is killed the kernel ends and removes all of
it, at any moment and after any crash. What the node sees:

    /run       empty and its own; in it /run/node, the run folder, and there bin/ (hard links into the binary cache)
    /var       `var/` of the run folder: containerd's images, the kubelet's pods, etcd's data, logs, where they belong
    the rest   the host's

The run folder's control.sock takes lines of JSON, {"do": "start" | "stop" | "kill" | "status", "name": …}, and answers
each with one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

from cluster.node.components import COMPONENTS, ENVIRONMENT, RUN
from cluster.node.network import HOST_ADDRESS, LINK_BITS, NODE_ADDRESS, NODE_LINK

_STOP_TIMEOUT = 20.0
"""Seconds between SIGTERM and SIGKILL."""


class Parts:
    """The node's parts: which run, and how those that do not have ended."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._gone: dict[int, asyncio.Event] = {}
        self._ended: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Start a part; nothing happens if it runs."""
        if name in self._running:
            return
        command = COMPONENTS[name]
        log = f"{RUN}/log/{name}.log"
        files = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawn(command[0], command, ENVIRONMENT, file_actions=files, setsid=True)
        self._running[name] = pid
        self._gone[pid] = asyncio.Event()
        self._ended.pop(name, None)

    async def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a part and wait until it is gone; nothing happens if it does not run."""
        pid = self._running.get(name)
        if pid is None:
            return
        gone = self._gone[pid]
        os.kill(pid, number)
        try:
            await asyncio.wait_for(gone.wait(), _STOP_TIMEOUT)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            await gone.wait()

    def status(self) -> dict[str, int | None]:
        """Each part that was ever started: None while it runs, else its exit status (negative: the signal)."""
        return dict.fromkeys(self._running) | self._ended

    def reap(self) -> None:
        """Collect what has ended: our parts, and whatever they left to process 1 (containerd's shims are such)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if gone := self._gone.pop(pid, None):
                name = next(n for n, p in self._running.items() if p == pid)
                del self._running[name]
                self._ended[name] = os.waitstatus_to_exitcode(status)
                gone.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One control connection."""
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._do(json.loads(line))).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _do(self, request: dict[str, str]) -> dict[str, Any]:
        name = request.get("name", "")
        if request["do"] == "status":
            return {"status": self.status()}
        if name not in COMPONENTS:
            return {"error": f"no part of a node: {name!r}; there are {', '.join(COMPONENTS)}"}
        try:
            if request["do"] == "start":
                self.start(name)
            else:
                await self.stop(name, signal.SIGKILL if request["do"] == "kill" else signal.SIGTERM)
        except OSError as error:
            return {"error": f"{name}: {error}"}
        return {"status": self.status()}


def _mount(run: str) -> None:
    os.umask(0o022)
    _call("mount", "-t", "tmpfs", "-o", "mode=755", "node", "/run")
    os.mkdir(RUN)
    _call("mount", "--bind", run, RUN)
    _call("mount", "--bind", f"{RUN}/var", "/var")


def _connect() -> None:
    """Give our end of the wire, which the host has put here, its address."""
    lines = f"""\
link set lo up
addr add {NODE_ADDRESS}/{LINK_BITS} dev {NODE_LINK}
link set {NODE_LINK} up
route add default via {HOST_ADDRESS}
"""
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, env=ENVIRONMENT)
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
        file.write("1")


def _call(*command: str) -> None:
    subprocess.run(command, check=True, env=ENVIRONMENT)


async def _serve() -> None:
    parts = Parts()
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, parts.reap)
    server = await asyncio.start_unix_server(parts.answer, f"{RUN}/control.sock")
    _tell_parent()
    # The pipes were for the start only: whoever started us may be gone.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    await server.serve_forever()


def _tell_parent() -> None:
    print(flush=True)


def main() -> None:
    """`python -m cluster.node.init RUN`: a line out when the namespaces are there, a line in when they are wired, a
    line out when control.sock answers."""
    _tell_parent()
    if not sys.stdin.readline():
        raise SystemExit("whoever started this node has ended")
    _mount(sys.argv[1])
    _connect()
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
