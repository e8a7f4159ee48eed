"""The host's side of a running node: its processes, and its control socket (see init.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.node.debian import PATH
from cluster.node.places import ROOT, Trouble


@dataclass(frozen=True)
class Process:
    """A process, and when it began, so that another one with its number later is not taken for it."""

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises FileNotFoundError or ProcessLookupError if there is none."""
        return cls(pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])

    def lives(self) -> bool:
        """Whether it has not ended."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state[19] == self.began and state[0] not in "ZX"

    def kill(self, timeout: float = 60) -> None:
        """SIGKILL, and wait for the end: for process 1 of a namespace that is the end of every process in it."""
        if not self.lives():
            return
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            if not select.select([handle], [], [], timeout)[0]:
                raise Trouble(f"process {self.pid} does not end, though it was killed {timeout:.0f} s ago")
        finally:
            os.close(handle)


class Birth:
    """A node's process 1 on its way: `wired` is called when the host's end of the wire is there."""

    def __init__(self, run: Path) -> None:
        self._run = run
        namespaces = ("--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
        # With the interpreter's own folders only: the node outlives any virtual environment's shell.
        command = ["unshare", *namespaces, sys.executable, "-m", "cluster.node.init", str(run)]
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
        children = Path(f"/proc/{self._parent.pid}/task/{self._parent.pid}/children").read_text().split()
        init = Process.of(int(children[0]))
        (run / "init.json").write_text(json.dumps(asdict(init)))

    def wired(self) -> None:
        """Let the node go on; returns when it answers on its control socket."""
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(b"\n")
        self._parent.stdin.flush()
        self._expect_a_line()
        self._parent.stdin.close()
        self._parent.stdout.close()
        # It is to outlive this process, which has no need to wait for it.
        self._parent.returncode = 0

    def _expect_a_line(self) -> None:
        assert self._parent.stdout
        if not self._parent.stdout.readline():
            self._parent.wait()
            raise Trouble(f"the node's first process ended:\n{(self._run / 'log' / 'init.log').read_text()[-2000:]}")


def init(run: Path) -> Process | None:
    """The node's process 1, if it lives."""
    try:
        process = Process(**json.loads((run / "init.json").read_text()))
    except (FileNotFoundError, ValueError):
        return None
    return process if process.lives() else None


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
