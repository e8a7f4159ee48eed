"""The whole server on the real CLI: its pool, its memory, its ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.harness import (
    Model,
    alive,
    chat,
    clean_environment,
    cli_pid,
    content,
    descendants,
    events,
    eventually,
    running_below,
    streamed_text,
)
from local.server import Server, free_port, launch, serving

HANG = "tail -f /dev/null"


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def server(model: Model, sessions: Path) -> Iterator[Server]:
    with serving(model, sessions, POOL_SIZE="2", WARM_WORKERS="0", QUEUE_TIMEOUT_MS="2500") as running:
        yield running


def ask(server: Server, conversation: str, text: str) -> str:
    with server.client(conversation) as client:
        return content(chat(client, text))


def streaming(server: Server, conversation: str, text: str) -> threading.Thread:
    """A turn in the background; wait for it with `join`."""

    def run() -> None:
        with server.client(conversation) as client:
            chat(client, text, stream=True)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_new_conversation_claims_the_warm_spare_and_another_is_made(model: Model, sessions: Path) -> None:
    with serving(model, sessions, POOL_SIZE="3", WARM_WORKERS="1") as server:
        server.until(live=1, warm=1)
        spare = cli_pid(server.process.pid)
        assert ask(server, "a", "::bash echo $PPID > ppid.txt\n::say hi") == "hi"
        claimed = Path(server.conversation("a")["workspace"], "ppid.txt").read_text().strip()
        assert int(claimed) == spare, "the turn ran in the process that was booted before"
        server.until(live=2, warm=1)


def test_the_least_recently_active_conversation_makes_room_and_comes_back_with_memory(server: Server) -> None:
    for name in ("a", "b"):
        ask(server, name, f"::write note.txt {name}'s note\n::say {name}")
        server.until_quiet()
    ask(server, "a", "::say again")
    server.until_quiet()
    ask(server, "c", "::say c")
    assert (server.conversation("a")["phase"], server.conversation("b")["phase"]) == ("Ready", "Suspended")
    assert ask(server, "b", "::bash cat note.txt > copy.txt\n::recall") == '["::write note.txt b\'s note\\n::say b"]'
    assert Path(server.conversation("b")["workspace"], "copy.txt").read_text() == "b's note"
    assert server.pool()["live"] <= 2


def test_idle_conversations_are_suspended_and_resume(model: Model, sessions: Path) -> None:
    with serving(model, sessions, IDLE_TIMEOUT_MS="1000", WARM_WORKERS="0") as server:
        ask(server, "a", "::say first")
        before = server.conversation("a")
        server.until_phase("a", "Suspended")
        assert server.pool() | {"live": 0, "suspended": 1} == server.pool()
        assert ask(server, "a", "::recall") == '["::say first"]'
        after = server.conversation("a")
        assert after["claude_session_id"] == before["claude_session_id"]
        server.until_quiet()
        assert server.conversation("a")["turns"] == 2


def test_a_background_task_keeps_its_worker(model: Model, sessions: Path) -> None:
    with serving(
        model, sessions, IDLE_TIMEOUT_MS="500", WARM_WORKERS="0", POOL_SIZE="1", QUEUE_TIMEOUT_MS="1500"
    ) as server:
        ask(server, "a", f"::bg {HANG}\n::say started")
        with server.client("b") as client:
            refused = chat(client, "::say b")
        assert refused.status_code == 503
        assert server.conversation("a")["phase"] == "Ready"


def test_a_full_pool_queues_then_refuses_with_retry_after(server: Server) -> None:
    turns = [streaming(server, name, "::sleep 4\n::say done") for name in ("a", "b")]
    server.until(busy=2)
    with server.client("c") as client:
        refused = chat(client, "::say c")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "pool_exhausted")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-conversation-id"] == "c"
        assert {n: server.conversation(n)["phase"] for n in ("a", "b")} == {"a": "Ready", "b": "Ready"}
        served = content(chat(client, "::say c"))
    for turn in turns:
        turn.join()
    assert served == "c"


def test_a_stream_that_waits_for_a_worker_gets_keepalives(model: Model, sessions: Path) -> None:
    with serving(
        model, sessions, POOL_SIZE="1", WARM_WORKERS="0", KEEPALIVE_MS="200", QUEUE_TIMEOUT_MS="20000"
    ) as server:
        turn = streaming(server, "a", "::sleep 2\n::say a")
        server.until(busy=1)
        with server.client("b") as client:
            answer = chat(client, "::say b", stream=True)
        turn.join()
    assert answer.text.startswith(": keepalive\n\n")
    assert streamed_text(answer.text) == "b"


def test_conversations_are_listed_shown_suspended_and_purged(server: Server) -> None:
    odd = "Größe/№ 7 ../x"
    with server.client() as client:
        chat(client, "::write f.txt x\n::say a", conversation_id=odd)
        server.until_quiet()
        listed = client.get("/conversations").json()["data"]
        assert [(c["id"], c["turns"], c["phase"]) for c in listed] == [(odd, 1, "Ready")]
        assert listed[0]["cost_usd"] > 0
        assert listed[0]["usage"]["input_tokens"] > 0
        path = f"/conversations/{httpx.URL('').copy_with(path='/' + odd).raw_path.decode()[1:]}"
        assert client.delete(path).json()["suspended"] is True
        assert client.get(path).json()["phase"] == "Suspended"
        assert chat(client, "::recall", conversation_id=odd).json()["choices"][0]["message"]["content"] != "[]"
        workspace = Path(client.get(path).json()["workspace"])
        assert (workspace / "f.txt").exists()
        assert client.delete(path, params={"purge": "true"}).json()["purged"] is True
        assert not workspace.exists()
        gone = client.get(path)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "conversation_not_found")
        assert client.delete(path).status_code == 404
        assert content(chat(client, "::recall", conversation_id=odd)) == "[]"


def test_health_and_metrics(server: Server) -> None:
    ask(server, "a", "::say hi")
    health = server.health()
    assert health["status"] == "ok"
    assert health["version"] == "0.1.0"
    assert health["cli_version"].count(".") == 2
    assert health["pool"]["size"] == 2
    with server.client() as client:
        metrics = client.get("/metrics").text
        assert client.get("/docs").status_code == 200
    assert "claude_pool" in metrics
    assert all(line.startswith(("#", "claude_")) for line in metrics.splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_conversations_outlive_the_server(model: Model, sessions: Path, number: int) -> None:
    with serving(model, sessions) as first:
        ask(first, "a", "::write note.txt precious\n::say saved")
        first.until_quiet()
        first.end(number)
    with serving(model, sessions) as second:
        assert second.conversation("a")["phase"] == "Suspended"
        assert ask(second, "a", "::recall") == '["::write note.txt precious\\n::say saved"]'
        second.until_quiet()
        assert second.conversation("a")["turns"] == 2
        assert Path(second.conversation("a")["workspace"], "note.txt").read_text() == "precious"


def test_a_cli_that_dies_mid_turn_is_an_error_in_the_stream_and_the_next_turn_resumes(server: Server) -> None:
    ask(server, "a", "::say kept")
    body = {"stream": True, "messages": [{"role": "user", "content": f"::say go\n::bash {HANG}\n::say no"}]}
    with server.client("a") as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if HANG in line)
            running_below(server.process.pid, *HANG.split())
            os.kill(cli_pid(server.process.pid), signal.SIGKILL)
            rest = "\n".join(lines)
        assert events(rest)[-1]["error"]["code"] == "worker_cli_ended"
        assert rest.endswith("data: [DONE]\n")
        assert content(chat(client, "::recall")).startswith('["::say kept"')


def test_a_worker_that_dies_mid_turn_is_an_error_in_the_stream_and_the_next_turn_resumes(server: Server) -> None:
    ask(server, "a", "::say kept")
    body = {"stream": True, "messages": [{"role": "user", "content": f"::say go\n::bash {HANG}\n::say no"}]}
    with server.client("a") as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if HANG in line)
            running_below(server.process.pid, *HANG.split())
            family = descendants(server.process.pid)
            worker = int(Path(f"/proc/{cli_pid(server.process.pid)}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(worker, signal.SIGKILL)
            rest = "\n".join(lines)
        assert events(rest)[-1]["error"]["code"] == "worker_lost"
        assert content(chat(client, "::recall")).startswith('["::say kept"')
    eventually(lambda: not [pid for pid in family if alive(pid)], 30)


def test_the_first_ctrl_c_lets_a_turn_end_the_second_does_not(model: Model, sessions: Path) -> None:
    with serving(model, sessions) as server:
        answers: list[str] = []

        def run() -> None:
            with server.client("a") as client:
                answers.append(chat(client, "::say begun\n::sleep 1.5\n::say ended", stream=True).text)

        turn = threading.Thread(target=run)
        turn.start()
        server.until(busy=1)
        assert server.end(signal.SIGINT) == 0
        turn.join()
        assert streamed_text(answers[0]).endswith("ended")
    with serving(model, sessions) as server:
        hanging = threading.Thread(target=run)
        hanging.start()
        server.until(busy=1)
        family = descendants(server.process.pid)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: any("stopping" in line for line in server.output))
        assert server.end(signal.SIGINT) == 130
        assert time.monotonic() - began < 10
        hanging.join()
        assert not [pid for pid in family if alive(pid)]
        assert '"error"' in answers[-1]


def test_two_servers_do_not_share_a_sessions_folder(server: Server, model: Model, sessions: Path) -> None:
    second = launch(sessions, model.environment())
    assert second.process.wait(30) == 1
    second.ready.wait(10)
    assert "SESSIONS_DIR" in "".join(second.output)


@pytest.mark.parametrize("sandbox", ["1", ""])
def test_without_credentials_the_demo_model_answers_and_really_runs_a_tool(sessions: Path, sandbox: str) -> None:
    with serving(None, sessions, IS_SANDBOX=sandbox) as server:
        assert any("SCRIPTED DEMO MODEL" in line for line in server.output)
        with server.client("demo") as client:
            message = chat(client, "Hello!").json()["choices"][0]["message"]
    assert "scripted demo model" in message["content"]
    assert message["reasoning_content"].endswith("> Bash: pwd\n"), "and it was not refused"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"POOL_SIZE": "0"}, "POOL_SIZE='0': must be a whole number from 1 to 10000"),
        ({"PERMISSION_MODE": "yolo"}, "PERMISSION_MODE='yolo': must be one of"),
        ({"WARM_WORKERS": "9", "POOL_SIZE": "2"}, "WARM_WORKERS=9: must be at most POOL_SIZE"),
        ({"API_KEYS": "short"}, "API_KEYS=(hidden): must be"),
    ],
)
def test_a_bad_setting_is_one_clear_line(sessions: Path, env: dict[str, str], message: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "claude_router"],
        env=clean_environment({"SESSIONS_DIR": str(sessions), "PORT": str(free_port()), **env}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="says what root gets")
def test_root_without_a_sandbox_gets_a_mode_that_the_cli_accepts(model: Model, sessions: Path) -> None:
    with serving(model, sessions, IS_SANDBOX="") as server:
        assert any("acceptEdits" in line for line in server.output)
        assert ask(server, "a", "::write f.txt x\n::say done") == "done"
        assert Path(server.conversation("a")["workspace"], "f.txt").exists()


def test_one_workspace_for_all_when_it_is_asked_for(model: Model, sessions: Path, tmp_path: Path) -> None:
    shared = tmp_path / "project"
    shared.mkdir()
    (shared / "mine.txt").write_text("mine")
    with serving(model, sessions, WORKSPACE_DIR=str(shared), WORKSPACE_PER_CONVERSATION="false") as server:
        ask(server, "a", "::bash cat mine.txt > seen.txt\n::say ok")
        with server.client() as client:
            client.delete("/conversations/a", params={"purge": "true"})
    assert (shared / "seen.txt").read_text() == "mine", "a purge leaves a shared workspace alone"
