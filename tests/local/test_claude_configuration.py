"""A pool's configuration of Claude Code, with the real CLI: what docs/claude-configuration.md promises."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from local.harness import Model, Running, chat, content, eventually, start_worker

_SERVER = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answers = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "keeper", "version": "1"}},
        "tools/list": {"tools": [{"name": "reveal", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": os.environ["SECRET"] + " " + sys.argv[1]}]},
    }
    answer = {"jsonrpc": "2.0", "id": asked["id"], "result": answers.get(asked["method"], {})}
    print(json.dumps(answer), flush=True)
"""
_REVEAL = "::tool mcp__keeper__reveal {}\n::results"


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    folder = tmp_path / "seed"
    (folder / "commands").mkdir(parents=True)
    (folder / "server.py").write_text(_SERVER)
    arguments = [str(folder / "server.py"), "${REGION:-nowhere}"]
    keeper = {"command": sys.executable, "args": arguments, "env": {"SECRET": "${KEEPER_TOKEN}"}}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"keeper": keeper}}))
    (folder / "CLAUDE.md").write_text("Remember the lighthouse.")
    (folder / "settings.json").write_text(json.dumps({"env": {"FROM_SETTINGS": "set-by-the-pool"}}))
    (folder / "commands" / "greet.md").write_text("::say greetings to $ARGUMENTS")
    (folder / "agents.tester.md").write_text("---\nname: tester\ndescription: tests things\n---\nYou test.")
    return folder


@contextmanager
def worker(model: Model, volume: Path, **settings: str) -> Iterator[Running]:
    running = start_worker(model, volume, **settings)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def recording(model: Model) -> Iterator[tuple[str, list[str]]]:
    """The address of a way to the model, and the bodies of what went through it: its log leaves reminders out."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append(body.decode())
            answer = httpx.post(model.url + self.path, content=body, headers={"content-type": "application/json"})
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()


def test_servers_memory_settings_and_agents(model: Model, seed: Path, tmp_path: Path) -> None:
    with (
        recording(model) as (url, bodies),
        worker(
            model, tmp_path / "v", CLAUDE_CONFIG_SEED=str(seed), KEEPER_TOKEN="hush", ANTHROPIC_BASE_URL=url
        ) as running,
        running.client() as client,
    ):
        assert "hush nowhere" in content(chat(client, _REVEAL))
        assert "mcp__keeper__reveal" in [tool["name"] for tool in json.loads(bodies[0])["tools"]]
        assert "Remember the lighthouse." in bodies[0]
        assert "tester: tests things" in bodies[0]
        assert "set-by-the-pool" in content(chat(client, "::bash echo $FROM_SETTINGS\n::results"))


def test_a_clients_only_model_has_none_of_the_pools_servers(model: Model, seed: Path, tmp_path: Path) -> None:
    mark = model.mark()
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    with (
        worker(model, tmp_path / "v", CLAUDE_CONFIG_SEED=str(seed), KEEPER_TOKEN="hush") as running,
        running.client() as client,
    ):
        content(chat(client, "::say hello", model="claude-code-client", tools=tools))
    assert model.log(mark)[0]["tools"] == ["mcp__client__look"]


@pytest.mark.parametrize("mode", ["acceptEdits", "plan"])
def test_a_clients_tool_is_called_in_every_permission_mode(model: Model, tmp_path: Path, mode: str) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    prompt = "::tool mcp__client__look {}\n::results"
    with worker(model, tmp_path / "v", PERMISSION_MODE=mode) as running, running.client() as client:
        answer = chat(client, prompt, model="claude-code-tools", tools=tools).json()
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "look"
        messages = [
            {"role": "user", "content": prompt},
            choice["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "seen"},
        ]
        body = {"model": "claude-code-tools", "messages": messages, "tools": tools}
        # In a mode that refuses, the model would have been told so instead.
        assert json.loads(content(client.post("/v1/chat/completions", json=body))) == ["seen"]


@pytest.mark.parametrize("commands", [True, False])
def test_a_command_of_the_pool(model: Model, seed: Path, tmp_path: Path, commands: bool) -> None:
    settings = {"SLASH_COMMANDS": str(commands).lower(), "CLAUDE_CONFIG_SEED": str(seed), "KEEPER_TOKEN": "hush"}
    with worker(model, tmp_path / "v", **settings) as running, running.client() as client:
        answer = content(chat(client, "/greet the crew"))
    assert (answer.strip() == "greetings to the crew") == commands


def test_a_conversation_brings_servers_and_memory_of_its_own(model: Model, tmp_path: Path, seed: Path) -> None:
    workspace = tmp_path / "v" / "workspace"
    workspace.mkdir(parents=True)
    (workspace / ".mcp.json").write_text((seed / "mcp.json").read_text())
    (workspace / "CLAUDE.md").write_text("Remember the harbour.")
    with (
        recording(model) as (url, bodies),
        worker(model, tmp_path / "v", KEEPER_TOKEN="own", REGION="north", ANTHROPIC_BASE_URL=url) as running,
        running.client() as client,
    ):
        assert "own north" in content(chat(client, _REVEAL))
        assert "Remember the harbour." in bodies[0]


def _transcript(volume: Path, days_old: float) -> Path:
    """One of another session, as old as that."""
    path = volume / "claude" / "projects" / "-elsewhere" / f"{uuid.uuid4()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"type":"user"}\n')
    written = time.time() - days_old * 86_400
    os.utime(path, (written, written))
    return path


def _until_gone(path: Path) -> None:
    eventually(lambda: not path.exists(), 60)


def test_old_transcripts_stay_unless_somebody_has_chosen_otherwise(model: Model, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    for name, chosen, old, kept in (("a", "{}", 40_000, 300), ("b", '{"cleanupPeriodDays": 60}', 90, 45)):
        (seed / "settings.json").write_text(chosen)
        goes, stays = _transcript(tmp_path / name, old), _transcript(tmp_path / name, kept)
        with worker(model, tmp_path / name, CLAUDE_CONFIG_SEED=str(seed)) as running, running.client() as client:
            content(chat(client, "::say hello"))
            _until_gone(goes)
        # It is the same sweep that would have taken the other one, and it is over.
        assert stays.exists(), name


def test_servers_that_claude_code_cannot_read_are_told(model: Model, tmp_path: Path, seed: Path) -> None:
    (seed / "mcp.json").write_text('{"servers": {}}')
    with (
        worker(model, tmp_path / "v", CLAUDE_CONFIG_SEED=str(seed)) as running,
        running.client() as client,
    ):
        found = eventually(lambda: client.get("/status").json().get("error"))
        assert "Missing" in found
        assert "mcpServers" in found
