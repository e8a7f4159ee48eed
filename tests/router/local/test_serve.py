"""`python -m claude_router` as a whole: its start, its signals, and what is left when it ends, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from claude_router.local import strays
from claude_router.local.health import check_health
from router.local.harness import FAKE, PATIENCE, alive, eventually

ROOT = Path(__file__).resolve().parents[3]
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("crds", "operator", "router", "worker-image"))
SERVE = f"""
import sys
from claude_router.local import serve
serve.WORKER_COMMAND = {FAKE!r}
sys.exit(serve.main())
"""


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC", "CLAUDE"))}
    own = {"PORT": "0", "SESSIONS_DIR": str(folder / "sessions-dir"), "ANTHROPIC_API_KEY": "sk-x", "IS_SANDBOX": "1"}
    return {**env, "PYTHONPATH": SOURCES, **own, **extra}


class Server:
    """A running server over fake workers."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.errors: list[str] = []
        self.banner = self.url = ""
        self.reading = threading.Thread(target=self._read, args=(process.stderr,))
        self.reading.start()

    def until_ready(self, before_ready: Callable[[], None] | None) -> None:
        if before_ready is not None:
            eventually(lambda: self.errors)
            before_ready()
        assert self.process.stdout is not None
        while "Ctrl-C" not in self.banner:
            line = self.process.stdout.readline()
            assert line, "".join(self.errors)
            self.banner += line
        found = re.search(r"on http://localhost:(\d+)/v1", self.banner)
        assert found, self.banner
        self.url = f"http://127.0.0.1:{found[1]}"

    def _read(self, stream: Any) -> None:
        for line in stream:
            self.errors.append(line)

    def turn(self, conversation: str, **body: Any) -> dict[str, Any]:
        asked = {"model": "claude-code", "messages": [{"role": "user", "content": "hello"}], **body}
        headers = {"X-Conversation-ID": conversation}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=asked, headers=headers, timeout=PATIENCE)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def busy(self) -> int:
        return int(httpx.get(f"{self.url}/health").json()["pool"]["busy"])

    def marked(self) -> list[int]:
        """Every process of its workers."""
        return strays.find(f"{self.folder}/sessions-dir/volumes/", prefix=True)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self.reading.join()
        return status


@contextmanager
def server(folder: Path, before_ready: Callable[[], None] | None = None, **extra: str) -> Iterator[Server]:
    """`before_ready` is called once it has said something on standard error."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], env=environment(folder, extra), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        running = Server(process, folder)
        try:
            running.until_ready(before_ready)
            yield running
        finally:
            process.kill()
            process.wait()
            running.reading.join()


def fails(folder: Path, **extra: str) -> tuple[int, str]:
    """Exit status and standard error of a server that does not come to serve."""
    done = subprocess.run(
        [sys.executable, "-m", "claude_router"], env=environment(folder, extra),
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_sigterm_suspends_and_ends(tmp_path: Path) -> None:
    with server(tmp_path, API_KEYS="") as s:
        answer = s.turn("one", say="kept")
        assert answer["environment"]["PERMISSION_MODE"] == "bypassPermissions"
        assert os.stat(f"/proc/{answer['pid']}")
        s.send(signal.SIGTERM)
        assert s.wait() == 0
        assert s.marked() == []
        assert not any("Traceback" in line for line in s.errors)
    with server(tmp_path) as s:
        assert s.turn("one", say="more")["memory"] == ["kept", "more"]


def test_the_first_signal_lets_a_turn_end_and_refuses_new_ones(tmp_path: Path) -> None:
    with server(tmp_path) as s, ThreadPoolExecutor() as threads, httpx.Client(base_url=s.url) as client:
        assert client.get("/health").status_code == 200  # so that a connection is open
        turn = threads.submit(s.turn, "one", hold=True)
        eventually(s.busy)
        worker = busy_worker(s)
        s.send(signal.SIGINT)
        eventually(lambda: any("stopping" in line for line in s.errors))
        eventually(lambda: refused(s.url))
        assert alive(worker)
        release(worker)
        assert turn.result(PATIENCE)["interrupted"] is False
        assert s.wait() == 0
        assert s.marked() == []


def test_a_turn_that_does_not_end_is_interrupted_after_the_grace(tmp_path: Path) -> None:
    with server(tmp_path, SHUTDOWN_GRACE_MS="200") as s, ThreadPoolExecutor() as threads:
        turn = threads.submit(s.turn, "one", hold=True)
        eventually(s.busy)
        s.send(signal.SIGTERM)
        assert turn.result(PATIENCE)["interrupted"] is True
        assert s.wait() == 0
        assert s.marked() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with server(tmp_path) as s, ThreadPoolExecutor() as threads:
        turn = threads.submit(s.turn, "one", hold=True)
        eventually(s.busy)
        s.send(number)
        eventually(lambda: any("stopping" in line for line in s.errors))
        s.send(number)
        assert s.wait() == 128 + number
        assert s.marked() == []
        assert turn.exception(PATIENCE) is not None
        assert not any("Traceback" in line for line in s.errors), "".join(s.errors)


def test_sigkill_leaves_no_worker_and_every_record(tmp_path: Path) -> None:
    with server(tmp_path) as s:
        first = s.turn("one", say="kept")
        s.turn("two")
        workers = s.marked()
        assert len(workers) >= 2
        s.send(signal.SIGKILL)
        assert s.wait() == -signal.SIGKILL
        assert eventually(lambda: not any(alive(pid) for pid in workers))
    with server(tmp_path) as s:
        ids = [c["id"] for c in httpx.get(f"{s.url}/conversations").json()["data"]]
        assert sorted(ids) == ["one", "two"]
        again = s.turn("one", say="more")
        assert (again["volume"], again["memory"]) == (first["volume"], ["kept", "more"])
        s.send(signal.SIGTERM)
        assert s.wait() == 0


def test_the_server_after_a_killed_one_waits_for_its_workers(tmp_path: Path) -> None:
    mark = {strays.MARK: f"{tmp_path}/sessions-dir/volumes/00000000-0000-4000-8000-000000000000#worker-1"}
    lasting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(lasting, stdin=subprocess.PIPE, env=os.environ | mark) as leftover:
        assert leftover.stdin is not None
        eventually(lambda: strays.find(mark[strays.MARK]) == [leftover.pid])
        with server(tmp_path, before_ready=leftover.stdin.close) as s:
            assert leftover.poll() == 0  # it was not killed
            assert any("waiting for them" in line for line in s.errors)
            s.send(signal.SIGTERM)
            assert s.wait() == 0


def test_ctrl_c_in_the_terminal_reaches_the_server_alone(tmp_path: Path) -> None:
    with server(tmp_path) as s:
        pid = s.turn("one")["pid"]
        assert os.getpgid(pid) == pid != os.getpgid(s.process.pid)


def test_without_credentials_the_demo_model_is_served(tmp_path: Path) -> None:
    with server(tmp_path, ANTHROPIC_API_KEY="") as s:
        assert "SCRIPTED DEMO MODEL" in s.banner
        env = s.turn("one")["environment"]
        assert httpx.get(f"{env['ANTHROPIC_BASE_URL']}/log").json() == []
        assert env["ANTHROPIC_API_KEY"]
        s.send(signal.SIGTERM)
        assert s.wait() == 0
        assert refused(env["ANTHROPIC_BASE_URL"])


def test_the_demo_model_ends_with_a_killed_server(tmp_path: Path) -> None:
    with server(tmp_path, ANTHROPIC_API_KEY="") as s:
        url = s.turn("one")["environment"]["ANTHROPIC_BASE_URL"]
        assert not refused(url)
        s.send(signal.SIGKILL)
        s.wait()
        eventually(lambda: refused(url))


def test_keys_never_reach_a_worker(tmp_path: Path) -> None:
    with server(tmp_path, API_KEYS="key-of-a-client") as s:
        assert httpx.get(f"{s.url}/conversations").status_code == 401
        answer = httpx.post(
            f"{s.url}/v1/chat/completions",
            json={"model": "claude-code", "messages": [{"role": "user", "content": "hello"}]},
            headers={"Authorization": "Bearer key-of-a-client"},
            timeout=PATIENCE,
        ).json()
        assert "key-of-a-client" not in json.dumps(answer["environment"])


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


def refused(url: str) -> bool:
    """Whether nobody listens there."""
    address = httpx.URL(url)
    with socket.socket() as sock:
        return sock.connect_ex((address.host, address.port or 0)) != 0


def busy_worker(s: Server) -> int:
    """Process id of the worker that has conversations; the spare has none."""
    [record] = (s.folder / "sessions-dir" / "sessions").glob("*.json")
    volume = json.loads(record.read_bytes())["volume"]
    [pid] = strays.find(f"{s.folder}/sessions-dir/volumes/{volume}#", prefix=True)
    return pid


def release(worker: int) -> None:
    """End the held turn of the fake worker with this process id."""
    os.kill(worker, signal.SIGUSR1)
