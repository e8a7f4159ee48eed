"""`python -m claude_router` as a whole: its start, its signals, and what is left when it ends, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from claude_router.local import strays
from router.local.harness import PATIENCE, alive, eventually
from router.local.servers import busy_worker, refused, release, server


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
