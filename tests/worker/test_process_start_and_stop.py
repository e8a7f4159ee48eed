"""The worker's process, with a stand-in for the CLI: what it refuses to start with, how it is followed, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from claude_crds.tokens import token_hash
from local.harness import Running, chat, clean_environment, content, descendants, eventually, start

QUICKLY = 4
"""Less than a CLI is given to end by itself."""


@pytest.fixture
def environment(cli: Path, volume: Path) -> dict[str, str]:
    return clean_environment({"VOLUME_DIR": str(volume), "CLAUDE_CLI": str(cli), "TOKEN_SHA256": token_hash("t0ken")})


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[Running]:
    running = start("claude_worker", environment | {"STOP_GRACE_MS": "100"})
    running.token = "t0ken"
    yield running
    running.stop()


def begun(environment: dict[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "claude_worker"], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for that signal."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(lines["SigCgt"], 16) >> (number - 1) & 1)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status and outputs of one that was told to end and does so quickly."""
    try:
        out, err = process.communicate(timeout=QUICKLY)
    finally:
        process.kill()
    return process.returncode, out, err


def test_it_is_not_open_to_the_network(environment: dict[str, str]) -> None:
    status, out, err = ended(begun(environment | {"TOKEN_SHA256": "", "HOST": "0.0.0.0"}))
    assert (status, out) == (2, "")
    assert err.startswith("claude_worker: HOST='0.0.0.0': without TOKEN_SHA256")


def test_the_token_of_that_hash_opens_it(worker: Running) -> None:
    with worker.client() as client:
        assert content(chat(client, "hello")) == "echo: hello"
    for headers in ({}, {"Authorization": f"Bearer {token_hash('t0ken')}"}):
        refused = httpx.get(f"{worker.url}/status", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token")


def test_its_settings_stay_out_of_the_clis_environment(worker: Running) -> None:
    (child,) = descendants(worker.process.pid)
    names = {part.partition(b"=")[0] for part in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")}
    assert not names & {b"TOKEN_SHA256", b"STOP_GRACE_MS"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_before_it_has_a_token(environment: dict[str, str], number: int) -> None:
    process = begun(environment | {"TOKEN_SHA256": "", "TOKEN_FILE": "-"})
    eventually(lambda: handles(process.pid, number) and handles(process.pid, signal.SIGTERM))
    process.send_signal(number)
    assert ended(process) == (0, "", "")


def test_a_signal_ends_it_while_its_cli_boots(environment: dict[str, str], tmp_path: Path) -> None:
    """The CLI is there before the server listens; this one neither answers nor ends by itself."""
    process = begun(environment | {"FAKE_CLI": "deaf", "FAKE_CLI_BOOTED": str(tmp_path / "booted")})
    eventually((tmp_path / "booted").exists)
    children = descendants(process.pid)
    process.terminate()
    status, _, err = ended(process)
    assert (status, err) == (0, "")
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_who_follows_it_hears_of_every_change_until_its_end(worker: Running) -> None:
    heard: list[dict[str, Any]] = []
    first = threading.Event()

    def follow() -> None:
        with worker.client() as client, client.stream("GET", "/status", params={"watch": "true"}) as changes:
            for line in changes.iter_lines():
                heard.append(json.loads(line))
                first.set()

    following = threading.Thread(target=follow)
    following.start()
    assert first.wait(QUICKLY), "the first line comes at once"
    with worker.client() as client:
        assert content(chat(client, "hello")) == "echo: hello"
        assert chat(client, "refused at once").status_code == 401
        eventually(lambda: not heard[-1]["busy"])
    assert worker.stop() == 0
    following.join(QUICKLY)
    assert not following.is_alive(), "the stream ends with the process"
    told = [(v["phase"], v["turns"], v["problem"]) for v in heard]
    steps = [step for step, before in zip(told, [None, *told], strict=False) if step != before]
    assert steps[0] == ("warm", 0, None)
    assert [s for s in steps if s[0] == "bound"][-1] == ("bound", 2, "key_refused")
    assert steps[-1] == ("drained", 2, "key_refused")
    busy = [v["busy"] for v in heard]
    assert busy[0] is False
    assert True in busy
    assert "".join(worker.errors) == ""


def test_a_turn_has_the_grace_that_is_set_and_no_more(worker: Running) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        with worker.client() as client:
            answers.append(chat(client, "hang"))

    asking = threading.Thread(target=ask)
    asking.start()
    with worker.client() as client, client.stream("GET", "/status", params={"watch": "true"}) as changes:
        lines = changes.iter_lines()
        next(line for line in lines if json.loads(line)["busy"])
    assert worker.stop(timeout=QUICKLY) == 0
    asking.join(QUICKLY)
    assert answers[0].status_code == 503
