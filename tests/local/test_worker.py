"""The worker around the real CLI, with the scripted model behind it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.harness import (
    Model,
    Running,
    alive,
    chat,
    cli_pid,
    content,
    descendants,
    events,
    eventually,
    running_below,
    start_worker,
    streamed_text,
)

HANG = "tail -f /dev/null"
"""A command that never ends (the CLI refuses a long `sleep`)."""


@pytest.fixture
def worker(model: Model, tmp_path: Path) -> Iterator[Running]:
    running = start_worker(model, tmp_path)
    yield running
    running.stop()


def fails(client: httpx.Client) -> None:
    """A request whose worker dies."""
    with pytest.raises(httpx.HTTPError):
        chat(client, "::say second")


def until_idle(client: httpx.Client) -> None:
    """An answer is complete a moment before its turn is written down and the worker idle."""
    with client.stream("GET", "/status", params={"watch": "true"}) as changes:
        lines = changes.iter_lines()  # kept: httpx closes the stream when its iterator goes
        next(line for line in lines if '"busy": false' in line)


def remembered(client: httpx.Client) -> str:
    """What the CLI's memory holds, as the model sees it."""
    return content(chat(client, "::recall"))


def test_a_stream_has_role_first_then_text_then_one_finish_usage_and_done(worker: Running) -> None:
    with worker.client() as client:
        answer = chat(client, "::think hm\n::say hello big world", stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    chunks = events(answer.text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert streamed_text(answer.text) == "hello big world"
    assert [c["choices"][0]["delta"]["reasoning_content"] for c in chunks[:-1]
            if "reasoning_content" in c["choices"][0]["delta"]] == ["hm"]  # fmt: skip
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-2]["x_claude"]["cost_usd"] > 0
    usage = chunks[-1]["usage"]
    assert chunks[-1]["choices"] == []
    assert usage["prompt_tokens"] > usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_tools_really_run_and_show_as_reasoning(worker: Running, tmp_path: Path) -> None:
    with worker.client() as client:
        answer = chat(client, "::bash echo made > made.txt\n::say done").json()["choices"][0]["message"]
    assert (tmp_path / "workspace" / "made.txt").read_text() == "made\n"
    assert answer["content"] == "done"
    assert "> Bash: echo made > made.txt" in answer["reasoning_content"]


@pytest.mark.parametrize(("mode", "where"), [("text", "content"), ("off", "")])
def test_tool_activity_goes_where_it_is_set_to(model: Model, tmp_path: Path, mode: str, where: str) -> None:
    worker = start_worker(model, tmp_path, TOOL_ACTIVITY=mode)
    with worker.client() as client:
        message = chat(client, "::bash true\n::say done").json()["choices"][0]["message"]
    worker.stop()
    assert "reasoning_content" not in message
    assert ("> Bash: true" in message["content"]) == (where == "content")


def test_system_messages_are_appended_to_the_prompt_of_a_booted_spare(worker: Running, model: Model) -> None:
    mark = model.mark()
    with worker.client() as client:
        messages = [
            {"role": "system", "content": "Speak like a HARBOUR pilot."},
            {"role": "user", "content": "::say aye"},
        ]
        client.post("/v1/chat/completions", json={"messages": messages})
    system = model.log(after=mark)[-1]["system"]
    assert "Speak like a HARBOUR pilot." in system
    assert len(system) > 1000, "the CLI's own prompt is kept"


def test_a_whole_history_is_sent_on_once_only(worker: Running, model: Model) -> None:
    with worker.client() as client:
        history = [{"role": "user", "content": "::say first answer"}]
        for text in ("::say second answer", "::say third answer"):
            said = content(client.post("/v1/chat/completions", json={"messages": history}))
            history += [{"role": "assistant", "content": said}, {"role": "user", "content": text}]
        client.post("/v1/chat/completions", json={"messages": history})
    asked = model.log()[-1]["prompts"]
    assert asked == ["::say first answer", "::say second answer", "::say third answer"]


def test_the_title_request_stays_out_of_the_conversation(worker: Running, model: Model) -> None:
    title = [
        {"role": "system", "content": "You are a title generator. You output ONLY a thread title."},
        {"role": "user", "content": "Generate a title for this conversation:\n"},
        {"role": "user", "content": "::say not for you"},
    ]
    mark = model.mark()
    with worker.client() as client:
        own = {"x-claude-client-session": "1"}
        answer = client.post("/v1/chat/completions", json={"messages": title}, headers=own)
        assert content(answer) == "not for you"
        tools = [{"type": "function", "function": {"name": "bash"}}]
        chat(client, "::say mine", tools=tools, headers=own)
        assert remembered(client) == '["::say mine"]'
    first = model.log(after=mark)[0]
    assert first["tools"] == []
    assert "title generator" in first["system"]


def test_models_switch_a_running_conversation(worker: Running, model: Model) -> None:
    used = []
    with worker.client() as client:
        for name in ("claude-code", "claude-code-haiku", "claude-code-opus:some-id", "claude-code"):
            chat(client, "::say x", model=name)
            used.append(model.log()[-1]["model"])
        unknown = chat(client, "::say x", model="gpt-4")
    assert "haiku" in used[1]
    assert "opus" in used[2]
    assert used[0] == used[3]
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


def test_a_client_that_leaves_interrupts_its_turn_within_a_second(worker: Running) -> None:
    with worker.client() as client:
        chat(client, "::say warm")
        body = {"stream": True, "messages": [{"role": "user", "content": f"::say go\n::bash {HANG}\n::say no"}]}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()  # kept: httpx closes the stream when its iterator goes
            next(line for line in lines if HANG in line)
            shell = running_below(worker.process.pid, *HANG.split())
        left = time.monotonic()
        assert remembered(client) == '["::say warm", "::say go\\n::bash tail -f /dev/null\\n::say no"]'
        assert time.monotonic() - left < 2.0
    eventually(lambda: not alive(shell))


def test_requests_of_one_conversation_take_turns(worker: Running, model: Model) -> None:
    mark = model.mark()
    with worker.client() as client:
        threads = [threading.Thread(target=chat, args=(client, f"::sleep 0.1\n::say {i}")) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lengths = [len(e["prompts"]) for e in model.log(after=mark)]
    assert lengths == [1, 2, 3, 4, 5], "each turn saw exactly the ones before it"


def test_too_many_waiting_requests_are_refused(model: Model, tmp_path: Path) -> None:
    worker = start_worker(model, tmp_path, MAX_QUEUE="1")
    body = {"stream": True, "messages": [{"role": "user", "content": "::say go\n::sleep 30"}]}
    with worker.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as running:
        lines = running.iter_lines()  # kept: httpx closes the stream when its iterator goes
        next(line for line in lines if '"go"' in line)
        waiting = threading.Thread(target=fails, args=(client,))
        waiting.start()
        eventually(lambda: client.get("/status").json()["queued"] == 1)
        refused = chat(client, "::say third")
        os.kill(worker.process.pid, signal.SIGKILL)
        waiting.join()
    worker.stop()
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "conversation_busy"


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [(401, 401, "model_authentication_failed"), (400, 400, "model_bad_request"), (429, 429, "rate_limit_exceeded"),
     (500, 502, "model_error"), (529, 503, "model_overloaded")],
)  # fmt: skip
def test_failures_of_the_model_arrive_as_openai_errors(worker: Running, status: int, shown: int, code: str) -> None:
    with worker.client() as client:
        failed = chat(client, f"::status {status}", stream=True)
        assert failed.status_code == shown, failed.text
        assert failed.json()["error"]["code"] == code
        assert failed.headers["x-should-retry"] == "false"
        assert content(chat(client, "::say still here")) == "still here"


def test_a_failure_in_a_stream_already_begun_is_an_error_object_and_an_end(worker: Running) -> None:
    with worker.client() as client:
        failed = chat(client, "::say half\n::bash true\n::status 400", stream=True)
        assert failed.status_code == 200
        last = events(failed.text)[-1]
        assert last["error"]["code"] == "model_bad_request"
        assert failed.text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"stop"' not in failed.text
        assert content(chat(client, "::say still here")) == "still here"


def test_a_cut_stream_is_retried_by_the_cli_or_ends_in_an_error(worker: Running) -> None:
    with worker.client() as client:
        failed = chat(client, "::say half\n::cut", stream=True)
        assert failed.text.endswith("data: [DONE]\n\n")
        assert "error" in events(failed.text)[-1]
        assert content(chat(client, "::say still here")) == "still here"


def test_a_killed_cli_ends_the_stream_with_an_error_and_the_next_turn_resumes(worker: Running) -> None:
    with worker.client() as client:
        chat(client, "::say kept")
        body = {"stream": True, "messages": [{"role": "user", "content": f"::say go\n::bash {HANG}\n::say no"}]}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if HANG in line)
            shell = running_below(worker.process.pid, *HANG.split())
            os.kill(cli_pid(worker.process.pid), signal.SIGKILL)
            rest = "\n".join(lines)
        assert events(rest)[-1]["error"]["code"] == "worker_cli_ended"
        assert remembered(client).startswith('["::say kept"')
    eventually(lambda: not alive(shell))


def test_keepalives_come_while_nothing_else_does(model: Model, tmp_path: Path) -> None:
    worker = start_worker(model, tmp_path, KEEPALIVE_MS="100")
    with worker.client() as client:
        answer = chat(client, "::sleep 1\n::say late", stream=True)
    worker.stop()
    assert answer.text.count(": keepalive\n\n") >= 5
    assert streamed_text(answer.text) == "late"


def test_a_turn_that_takes_too_long_is_interrupted(model: Model, tmp_path: Path) -> None:
    worker = start_worker(model, tmp_path, TURN_TIMEOUT_MS="1500")
    with worker.client() as client:
        late = chat(client, "::sleep 60\n::say never")
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "turn_timeout"
        assert content(chat(client, "::say still here")) == "still here"
    worker.stop()


def test_background_tasks_keep_a_worker_busy_and_what_they_wake_is_not_shown(worker: Running, model: Model) -> None:
    mark = model.mark()
    with worker.client() as client:
        chat(client, "::bg sleep 1.5\n::say started")
        assert client.get("/status").json()["busy"] is True
        refused = client.post("/drain")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "worker_busy")
        until_idle(client)
        assert len(model.log(after=mark)) == 3, "the finished task woke the CLI for a turn of its own"
        assert content(chat(client, "::say mine")) == "mine"


def test_a_drained_worker_refuses_and_its_volume_resumes_elsewhere(model: Model, tmp_path: Path) -> None:
    first = start_worker(model, tmp_path)
    with first.client() as client:
        before = chat(client, "::write note.txt precious\n::say saved").json()["x_claude"]["cost_usd"]
        until_idle(client)
        assert client.post("/drain").json() == {"drained": True}
        refused = chat(client, "::say too late")
        assert (refused.status_code, refused.headers["x-claude-turn"]) == (503, "not-started")
        assert client.get("/status").json()["phase"] == "drained"
    assert first.stop() == 0
    second = start_worker(model, tmp_path)
    with second.client() as client:
        assert client.get("/status").json()["phase"] == "bound"
        after = chat(client, "::recall").json()
        assert after["choices"][0]["message"]["content"] == '["::write note.txt precious\\n::say saved"]'
        assert 0 < after["x_claude"]["cost_usd"] < before * 2, "a resumed CLI's cost is counted from where it was"
        assert client.get("/status").json()["turns"] == 2
        transcript = client.get("/transcript").json()["messages"]
        assert [m["role"] for m in transcript].count("assistant") >= 2
    second.stop()
    assert (tmp_path / "workspace" / "note.txt").read_text() == "precious"


def test_a_lost_transcript_is_made_good_by_the_clients_history_once(model: Model, tmp_path: Path) -> None:
    def said(*texts: str) -> dict[str, object]:
        roles = ["user", "assistant"] * len(texts)
        return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}

    first = start_worker(model, tmp_path)
    with first.client() as client:
        chat(client, "::say one")
    first.stop()
    for transcript in (tmp_path / "claude" / "projects").rglob("*.jsonl"):
        transcript.unlink()
    second = start_worker(model, tmp_path)
    with second.client() as client:
        client.post("/v1/chat/completions", json=said("::say one", "one", "::say two"))
        context, *rest = model.log()[-1]["prompts"]
        assert "user: ::say one\n\nassistant: one" in context
        assert rest == ["::say two"]
        client.post("/v1/chat/completions", json=said("::say one", "one", "::say two", "two", "::say three"))
        assert model.log()[-1]["prompts"] == [context, "::say two", "::say three"]
    second.stop()


def test_two_workers_never_share_a_volume(worker: Running, model: Model, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="another worker uses this session volume"):
        start_worker(model, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_a_worker_ends_in_a_turn(model: Model, tmp_path: Path, number: int) -> None:
    worker = start_worker(model, tmp_path)
    body = {"stream": True, "messages": [{"role": "user", "content": f"::say go\n::bash {HANG}\n::say no"}]}
    with worker.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream when its iterator goes
        next(line for line in lines if HANG in line)
        running_below(worker.process.pid, *HANG.split())
        family = descendants(worker.process.pid)
        worker.stop(number)
    eventually(lambda: not any(alive(p) for p in family))


def test_a_worker_ends_when_its_parent_is_gone(model: Model, tmp_path: Path) -> None:
    worker = start_worker(model, tmp_path)
    with worker.client() as client:
        chat(client, "::say hi")
    family = descendants(worker.process.pid)
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(15) == 0
    assert not any(alive(p) for p in family)
    worker.stop()


def test_only_the_sessions_token_is_accepted(worker: Running) -> None:
    refused = httpx.get(f"{worker.url}/status", headers={"Authorization": "Bearer wrong"}, timeout=10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token")
    assert httpx.get(f"{worker.url}/healthz", timeout=10).status_code == 200


def test_secrets_of_the_worker_do_not_reach_the_tools(model: Model, tmp_path: Path) -> None:
    worker = start_worker(model, tmp_path, API_KEYS="sk-team")
    with worker.client() as client:
        chat(client, "::bash env > env.txt\n::say ok")
    worker.stop()
    seen = (tmp_path / "workspace" / "env.txt").read_text()
    assert "sk-team" not in seen
    assert "t0ken" not in seen
    assert "VOLUME_DIR" not in seen
