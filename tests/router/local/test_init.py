"""The server as process 1: its orphans are collected, signals reach it once, its exit status is the container's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from router.local.harness import PATIENCE, eventually

ROUTER = Path(__file__).resolve().parents[3] / "router"

# A sub-reaper inherits orphans as process 1 does.
SCRIPT = """
import ctypes, os, signal, sys, time
from claude_router.local.init import supervise
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

def serve():
    got = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: got.append(n))
    if os.fork() == 0:
        orphan = os.fork()
        if orphan == 0:
            time.sleep(0.05)
            os._exit(0)
        print(orphan, flush=True)
        os._exit(0)
    os.wait()
    print("ready", flush=True)
    while not got:
        signal.pause()
    time.sleep(0.05)  # a second one would come at once
    print(*got, flush=True)
    return 7

sys.exit(supervise(serve))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sub-reapers and /proc are Linux's")


def started() -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROUTER)}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_orphans_are_collected_and_a_signal_arrives_once(number: signal.Signals) -> None:
    with started() as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        eventually(lambda: not Path(f"/proc/{orphan}").exists())  # not even as a zombie
        os.killpg(process.pid, number)  # as a terminal does
        assert process.stdout.read() == f"{number:d}\n"
        assert process.wait(PATIENCE) == 7


def test_a_killed_server_is_told(tmp_path: Path) -> None:
    with started() as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            pass
        [server] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[:1]
        os.kill(int(server), signal.SIGKILL)
        assert process.wait(PATIENCE) == 128 + signal.SIGKILL
