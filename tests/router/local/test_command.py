"""The command line: what keeps the server from starting, and the health check."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from claude_router.local.health import check_health
from router.local.servers import SOURCES, environment, fails, server


def test_a_bad_setting_is_one_line(tmp_path: Path) -> None:
    status, errors = fails(tmp_path, POOL_SIZE="many")
    assert (status, errors) == (2, "claude_router: POOL_SIZE='many': must be a whole number from 1 to 10000\n")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, errors = fails(tmp_path, PORT=str(port))
    reason = f"cannot listen on 127.0.0.1:{port} (Address already in use)"
    assert (status, errors) == (1, f"claude_router: {reason}: set PORT or HOST to another\n")


def test_two_servers_on_one_folder(tmp_path: Path) -> None:
    with server(tmp_path) as s:
        status, errors = fails(tmp_path)
        assert status == 1
        assert f"is in use by another server (process {s.process.pid})" in errors
        assert len(errors.splitlines()) == 1
        assert s.turn("one", say="unharmed")["memory"] == ["unharmed"]


def test_health_check(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with server(tmp_path) as s:
        assert check_health(s.url) == 0
        command = [sys.executable, "-m", "claude_router", "--check-health"]
        port = s.url.rpartition(":")[2]
        assert subprocess.run(command, env=environment(tmp_path, {"PORT": port}), check=False).returncode == 0
    assert check_health(s.url) == 1
    assert "not healthy" in capfd.readouterr().err


def test_health_check_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    body = b'{"error": {"message": "no worker can be started"}}'
    answer = b"HTTP/1.1 503 No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as threads:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        threads.submit(serve)
        assert check_health(f"http://127.0.0.1:{listening.getsockname()[1]}/health") == 1
    assert capfd.readouterr().err == "not healthy: no worker can be started\n"


def test_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "claude_router", "--what"], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": SOURCES},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--check-health" in done.stderr
