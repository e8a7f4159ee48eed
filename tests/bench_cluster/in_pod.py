"""The floor, from inside a pod of the worker's image: the CLI over its pipes, without worker, router or operator.

This file's text is what `python -c` gets there, so it imports nothing but the standard library and `claude_worker`.
Commands come as JSON lines on standard input, and each is answered by one; at the end of input the CLI ends as well.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from claude_worker import cli, frames
from claude_worker.settings import load_settings

STILL_SECONDS = 0.4
BOOTED_CPU_SECONDS = 0.2
LONGEST_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")

# Inside of texts these would have backslashes.
TEXT, ANSWERED, RESULT = b'"type":"text_delta"', b'"type":"control_response"', b'"type":"result"'


class Cli:
    """One CLI process at a time, with the arguments and environment that a worker gives it."""

    def __init__(self) -> None:
        self.settings = load_settings(os.environ)
        self.session = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.partial = b""

    def boot(self, resume: bool) -> None:
        """Start it, on a new conversation or on the last one; `initialize` is not sent yet."""
        self.end()
        self.session = self.session if resume else str(uuid.uuid4())
        for place in (self.settings.workspace, self.settings.config_dir):
            place.mkdir(parents=True, exist_ok=True)
        command = [cli.find_cli(), *cli.session_arguments(self.settings, self.session, resume=resume)]
        env = cli.environment(self.settings, os.environ, self.settings.config_dir)
        self.partial = b""
        self.process = subprocess.Popen(
            command, bufsize=0, cwd=self.settings.workspace, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def send(self, line: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line)

    def until(self, wanted: bytes) -> float:
        """Seconds on the clock when it printed that; what came before is passed over."""
        assert self.process is not None
        assert self.process.stdout is not None
        while wanted not in self.partial:
            self.partial = self.partial.rpartition(b"\n")[2]
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise RuntimeError(f"the CLI ended: {self.process.wait()}")
            self.partial += data
        self.partial = self.partial.partition(wanted)[2]
        return time.perf_counter()

    def initialize(self) -> None:
        self.send(frames.control_request("1", {"subtype": "initialize"}))
        self.until(ANSWERED)

    def turn(self, prompt: str) -> dict[str, float]:
        """One turn: seconds to the first text and to the end."""
        began = time.perf_counter()
        self.send(frames.user_message([{"type": "text", "text": prompt}], str(uuid.uuid4())))
        return {"first": self.until(TEXT) - began, "whole": self.until(RESULT) - began}

    def end(self) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        while os.read(self.process.stdout.fileno(), 1 << 20):
            pass
        self.process.wait()
        self.process = None


def obey(cli_: Cli, command: dict[str, Any]) -> dict[str, float]:
    """What one command answers."""
    began = time.perf_counter()
    match command["do"]:
        case "boot":
            cli_.boot(resume=False)
        case "first":  # of a process that waits, as a spare does
            cli_.initialize()
            spent = time.perf_counter() - began
            return {name: seconds + spent for name, seconds in cli_.turn(command["prompt"]).items()}
        case "turn":
            return cli_.turn(command["prompt"])
        case "resume":
            cli_.boot(resume=True)
            cli_.initialize()
            booted = time.perf_counter() - began
            return {"boot": booted, **cli_.turn(command["prompt"])}
        case "end":
            cli_.end()
        case "still":
            until_still()
        case "port":
            until_open(command["host"], command["port"])
    return {"took": time.perf_counter() - began}


def until_open(host: str, port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            sock.settimeout(1.0)
            if sock.connect_ex((host, port)) == 0:
                return
        time.sleep(0.005)
    raise TimeoutError(f"nobody listens on {host}:{port}")


def until_still() -> None:
    """Until a CLI has booted in this pod, and rests: it says nothing of it before it gets `initialize`."""
    deadline = time.monotonic() + LONGEST_SECONDS
    before = cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(STILL_SECONDS)
        now = cpu_seconds()
        if now >= BOOTED_CPU_SECONDS and now - before <= 1 / TICKS:
            return
        before = now
    raise TimeoutError("the pod does not come to rest")


def cpu_seconds() -> float:
    """User and system time of all other processes of the pod."""
    total = 0
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def main() -> None:
    cli_ = Cli()
    for line in sys.stdin:
        print(json.dumps(obey(cli_, json.loads(line))), flush=True)
    cli_.end()


if __name__ == "__main__":
    main()
