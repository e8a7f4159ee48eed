"""Real parts for the tests: the scripted model, workers and whole servers, each a process of its own on loopback."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("crds", "operator", "router", "worker-image"))
Json = dict[str, Any]


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without a model's credentials or a parent session's marks, plus `extra`.

    HOME is an empty folder: the CLI's shells read the user's profile, which may be slow, or break when it is killed.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ANTHROPIC", "CLAUDE"))}
    return env | {"PYTHONPATH": SOURCES, "IS_SANDBOX": "1", "HOME": _home(), **extra}


@functools.cache
def _home() -> str:
    folder = tempfile.mkdtemp(prefix="claude-tests-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass
class Running:
    """A started process and the address it serves; its standard error is kept for messages."""

    process: subprocess.Popen[str]
    url: str
    token: str = ""
    errors: list[str] = field(default_factory=list)

    def client(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Send a signal, close the lifeline, wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        if self.process.stdin:
            self.process.stdin.close()
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()


def start(module: str, env: Mapping[str, str], *, first_line: str = "", arguments: tuple[str, ...] = ()) -> Running:
    """Start `python -m module` and wait for its JSON ready line. `first_line` goes to its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if first_line:
        process.stdin.write(first_line + "\n")
        process.stdin.flush()
    errors: list[str] = []
    stream = process.stderr
    collecting = threading.Thread(target=lambda: _collect(stream, errors), daemon=True)
    collecting.start()
    line = process.stdout.readline()
    if not line:
        process.stdin.close()
        process.stdout.close()
        process.wait()
        collecting.join()
        raise RuntimeError(f"{module} ended at once: {''.join(errors)}")
    return Running(process, f"http://127.0.0.1:{json.loads(line)['port']}", first_line, errors)


def _collect(stream: Any, lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line)


class Model:
    """The scripted model, and what it was asked."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.url = running.url

    def log(self, after: int = 0) -> list[Json]:
        """The requests, oldest first."""
        found: list[Json] = httpx.get(f"{self.url}/log", params={"after": after}, timeout=30).json()
        return found

    def mark(self) -> int:
        """The number of the last request so far, for `log(after=…)`."""
        entries = self.log()
        return int(entries[-1]["number"]) if entries else 0

    def environment(self) -> dict[str, str]:
        return {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": "sk-scripted"}


@contextmanager
def scripted_model() -> Iterator[Model]:
    running = start("claude_router.demo", clean_environment({}), arguments=("--watch-stdin",))
    try:
        yield Model(running)
    finally:
        running.stop()


def start_worker(model: Model, volume: Path, **settings: str) -> Running:
    """A worker on `volume`, with the scripted model behind its CLI."""
    own = {"VOLUME_DIR": str(volume), "TOKEN_FILE": "-", "WATCH_STDIN": "true", "MODEL_RETRIES": "1"}
    return start("claude_worker", clean_environment(model.environment() | own | settings), first_line="t0ken")


def chat(client: httpx.Client, text: str, *, stream: bool = False, **fields: Any) -> httpx.Response:
    """One turn with one user message."""
    body = {"messages": [{"role": "user", "content": text}], "stream": stream, **fields}
    headers = fields.pop("headers", None)
    body.pop("headers", None)
    return client.post("/v1/chat/completions", json=body, headers=headers)


def content(response: httpx.Response) -> str:
    """The text of a JSON completion."""
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def events(text: str) -> list[Json]:
    """The JSON objects of an SSE body, without `[DONE]` and comments."""
    data = (line[6:] for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(d) for d in data if d != "[DONE]"]


def streamed_text(text: str) -> str:
    """The `content` deltas of an SSE body, joined."""
    return "".join(c["delta"].get("content") or "" for e in events(text) for c in e.get("choices", []))


def assert_remembered(name: str, told: Sequence[tuple[str, bool]], remembered: Sequence[str]) -> None:
    """The memory, as the model sees it, is what was told, in order; only turns that are not certain may be missing."""
    prompts = [prompt for prompt, _ in told]
    assert all(prompt in prompts for prompt in remembered), name
    positions = [prompts.index(prompt) for prompt in remembered]
    assert positions == sorted(set(positions)), f"{name}: each turn once, in order"
    missing = [prompt for prompt, certain in told if certain and prompt not in remembered]
    assert missing == [], f"{name} forgot"


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Poll something outside our processes (such as /proc) until it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if found := check():
            return found
        assert time.monotonic() < deadline, f"not true within {seconds} s: {check}"
        time.sleep(0.02)


def descendants(pid: int) -> set[int]:
    """Ids of all living descendants of a process."""
    found: set[int] = set()
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            listing = Path(f"/proc/{pid}/task/{thread}/children").read_text()
        except OSError:
            continue
        below = {int(child) for child in listing.split()}
        found |= below.union(*(descendants(child) for child in below))
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running_below(pid: int, *command: str) -> int:
    """The descendant of `pid` that runs exactly `command`; waits until there is one."""
    wanted = b"\0".join(c.encode() for c in command) + b"\0"

    def find() -> int:
        for child in descendants(pid):
            try:
                if Path(f"/proc/{child}/cmdline").read_bytes() == wanted:
                    return child
            except OSError:
                continue
        return 0

    return int(eventually(find))


def find_cli(worker_pid: int) -> int:
    """The CLI of a worker, or of one of a server's workers; 0: there is none."""
    for pid in descendants(worker_pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"claude") and b"-p" in command:
            return pid
    return 0


def cli_pid(worker_pid: int) -> int:
    """The same; waits until there is one."""
    return int(eventually(lambda: find_cli(worker_pid)))


def unread(pid: int) -> bool:
    """Whether a connection of the process holds bytes that it has not read. It must be stopped."""
    mine = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    waiting = {f"socket:[{row[9]}]" for row in rows if row[3] == "01" and not row[4].endswith(":00000000")}
    return bool(mine & waiting)
