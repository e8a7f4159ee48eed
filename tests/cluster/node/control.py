"""The host's side of a running node: its processes, and its control socket (see init.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.node.debian import PATH
from cluster.node.places import ROOT, Trouble

_INIT = ("-m", "cluster.node.init")
_KILL_TIMEOUT = 60.0
"""Seconds until all processes of a killed node have ended; it takes a moment."""


def init(run: Path) -> int | None:
    """The node's process 1 by the host's count, if it lives. Found by its command line, which no file can get wrong."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:  # it has just ended
            continue
        # Its parent, unshare, has the same words at the end.
        if words[-3:] == [*_INIT, str(run)] and words[0] != "unshare":
            return int(folder.name)
    return None


def end(run: Path) -> bool:
    """Kill the node's process 1 and with it all others. Returns when they are gone; False if there was no node."""
    pid = init(run)
    if pid is None:
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not select.select([handle], [], [], _KILL_TIMEOUT)[0]:
            raise Trouble(f"process {pid} does not end, though it was killed {_KILL_TIMEOUT:.0f} s ago")
    finally:
        os.close(handle)
    return True


class Birth:
    """A node's process 1 on its way: `wired` is called when the host's end of the wire is there."""

    def __init__(self, run: Path) -> None:
        self._run = run
        namespaces = ("--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
        # With the interpreter's own folders only: the node outlives any virtual environment's shell.
        command = ["unshare", *namespaces, sys.executable, *_INIT, str(run)]
        env = {"PATH": PATH, "PYTHONPATH": str(ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1"}
        with (run / "log" / "init.log").open("wb") as log:
            self._parent = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        self._expect_a_line()
        self.namespace = self._parent.pid
        """A process in the node's network namespace, by the host's count."""

    def wired(self) -> None:
        """Let the node go on; returns when it answers on its control socket."""
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(b"\n")
        self._parent.stdin.flush()
        self._expect_a_line()
        self._parent.stdin.close()
        self._parent.stdout.close()
        # It outlives this process; so that Python does not complain of a child that nobody waits for:
        self._parent.returncode = 0

    def _expect_a_line(self) -> None:
        assert self._parent.stdout
        if not self._parent.stdout.readline():
            self._parent.wait()
            raise Trouble(f"the node's first process ended:\n{(self._run / 'log' / 'init.log').read_text()[-2000:]}")


def ask(run: Path, do: str, name: str = "") -> dict[str, int | None]:
    """`start`, `stop` (SIGTERM), `kill` (SIGKILL) a part of the node or only ask; returns the state of each part.

    The state is None while it runs, else its exit status. Returns when it is started, or gone.
    """
    request = json.dumps({"do": do, "name": name})
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(run / "control.sock"))
            with sock.makefile("rw") as file:
                file.write(request + "\n")
                file.flush()
                answer: dict[str, Any] = json.loads(file.readline())
    except (OSError, ValueError) as error:
        raise Trouble(f"the node does not answer ({error}); is it up?") from error
    if "error" in answer:
        raise Trouble(answer["error"])
    status: dict[str, int | None] = answer["status"]
    return status
