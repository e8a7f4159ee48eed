"""The container of the whole endpoint: built from the Dockerfile, run as compose would, asked over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from container.bundle import Bundle
from container.needs import need
from local.harness import chat, content, descendants, eventually

HERE = Path(__file__).parent
IMAGE = "localhost/claude-code-api:test"

# The agent's commands run as the plain user, in the plain system, with a /tmp that programs can run from.
LOOK = """\
::bash (id -u; printenv PYTHONPATH; command -v python3; cp /bin/true /tmp/ && /tmp/true && echo ran) > seen.txt
::say done"""


@pytest.fixture(scope="module")
def image() -> str:
    need("buildah", "runc", "debootstrap", root=True)
    build = [str(HERE / "build.sh"), IMAGE, "Dockerfile", "."]
    built = subprocess.run(build, cwd=HERE.parents[1], capture_output=True, text=True, timeout=900)
    assert built.returncode == 0, built.stderr[-3000:]
    return IMAGE


@dataclass
class Container:
    url: str
    process: subprocess.Popen[str]
    log: list[str]
    name: str
    health_check: list[str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(["runc", "exec", self.name, *command], capture_output=True, text=True, timeout=60)

    def stop(self) -> int:
        """What `docker stop` does; returns the exit status."""
        subprocess.run(["runc", "kill", self.name, "TERM"], check=True, timeout=30)
        return self.process.wait(45)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def started(image: str, folder: Path, data: Path) -> Iterator[Container]:
    folder.mkdir()
    port = free_port()
    name = f"claude-code-api-test-{os.getpid()}"
    bundle = Bundle(image, folder, data, {"PORT": str(port), "HOST": "127.0.0.1"})
    command = ["runc", "run", "--bundle", str(folder), name]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    container = Container(f"http://127.0.0.1:{port}", process, [], name, bundle.health_check)
    ready = threading.Event()
    reader = threading.Thread(target=_read, args=(container, ready))
    reader.start()
    try:
        assert ready.wait(60), "".join(container.log)
        assert process.poll() is None, "".join(container.log)
        yield container
    finally:
        if process.poll() is None:
            subprocess.run(["runc", "kill", name, "KILL"], check=False, timeout=30)
            process.wait(30)
        reader.join()
        bundle.close()


def _read(container: Container, ready: threading.Event) -> None:
    assert container.process.stdout is not None
    with container.process.stdout as lines:
        for line in lines:
            container.log.append(line)
            if "Application startup complete" in line:
                ready.set()
    ready.set()


def test_it_serves_keeps_its_memory_over_a_restart_and_stops_cleanly(image: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with started(image, tmp_path / "first", data) as container:
        assert any("SCRIPTED DEMO MODEL" in line for line in container.log)
        with httpx.Client(base_url=container.url, headers={"X-Conversation-ID": "kept"}, timeout=60) as client:
            assert client.get("/health").json()["status"] == "ok"
            assert content(chat(client, LOOK)) == "done"
        assert container.run(*container.health_check).returncode == 0
        assert container.run("id", "-u").stdout.strip() == "10001"
        assert container.run("touch", "/opt/x").returncode != 0, "the root file system is read-only"
        family = eventually(lambda: descendants(container.process.pid))
        assert container.stop() == 0, "".join(container.log)
        assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    assert [path.read_text() for path in data.rglob("seen.txt")] == ["10001\n/usr/bin/python3\nran\n"]

    with started(image, tmp_path / "second", data) as container:
        with httpx.Client(base_url=container.url, headers={"X-Conversation-ID": "kept"}, timeout=60) as client:
            assert json.loads(content(chat(client, "::recall"))) == [LOOK]
        assert container.stop() == 0


def test_an_unhealthy_server_is_noticed(image: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with started(image, tmp_path / "only", data) as container:
        wrong = f"PORT={free_port()}"
        assert container.run("env", wrong, *container.health_check).returncode == 1
