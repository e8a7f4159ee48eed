"""A worker whose credential for the model is in a file that others change, with the real CLI: as behind the gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from local.harness import Model, Running, chat, content, start_worker


@dataclass
class Door:
    """A way to the model that opens for some tokens only, and knows what it was shown."""

    url: str = ""
    opens: set[str] = field(default_factory=set)
    shown: list[tuple[str, str]] = field(default_factory=list)
    """`Authorization` and `x-api-key` of each request."""

    def since(self, mark: int) -> list[str]:
        """The tokens that were shown; every request shows one, in both headers."""
        assert all(bearer == f"Bearer {key}" for bearer, key in self.shown[mark:])
        return [key for _, key in self.shown[mark:]]


@pytest.fixture
def door(model: Model) -> Iterator[Door]:
    made = Door()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.shown.append((self.headers.get("authorization", ""), self.headers.get("x-api-key", "")))
            if self.headers.get("x-api-key") not in made.opens:
                error = {"type": "error", "error": {"type": "authentication_error", "message": "it has expired"}}
                self._answer(401, "application/json", json.dumps(error).encode())
                return
            answer = httpx.post(model.url + self.path, content=body, headers={"content-type": "application/json"})
            self._answer(answer.status_code, answer.headers["content-type"], answer.content)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.url = f"http://127.0.0.1:{server.server_port}"
        yield made
        server.shutdown()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "a folder" / "token"
    file.parent.mkdir()
    file.write_text("one")
    return file


@pytest.fixture
def worker(model: Model, door: Door, token: Path, tmp_path: Path) -> Iterator[Running]:
    seed = tmp_path / "seed"
    seed.mkdir()
    own = {"env": {"FROM_SETTINGS": "set-by-the-pool"}, "apiKeyHelper": "echo the-seed-s"}
    (seed / "settings.json").write_text(json.dumps(own))
    running = start_worker(
        model, tmp_path / "volume", ANTHROPIC_BASE_URL=door.url, ANTHROPIC_API_KEY="sk-of-the-pod-s",
        MODEL_TOKEN_FILE=str(token), CLAUDE_CONFIG_SEED=str(seed),
    )  # fmt: skip
    yield running
    running.stop()


def test_the_file_s_token_is_used_beside_the_pool_s_settings(worker: Running, door: Door) -> None:
    door.opens = {"one"}
    with worker.client() as client:
        assert content(chat(client, "::say hello")) == "hello"
        command = 'echo "$FROM_SETTINGS-$ANTHROPIC_API_KEY-$MODEL_TOKEN_FILE-"'
        said = content(chat(client, f"::tool Bash {json.dumps({'command': command})}\n::results"))
    assert "set-by-the-pool---" in said, "the seed's settings hold, and commands see no credential"
    assert set(door.since(0)) == {"one"}


def test_a_changed_file_is_read_as_soon_as_the_old_token_is_refused(worker: Running, door: Door, token: Path) -> None:
    door.opens = {"one"}
    with worker.client() as client:
        assert content(chat(client, "::say a")) == "a"
        token.write_text("two")
        door.opens, mark = {"two"}, len(door.shown)
        assert content(chat(client, "::say b")) == "b"
        assert door.since(mark)[-1] == "two"
        mark = len(door.shown)
        assert content(chat(client, "::say c")) == "c"
        assert door.since(mark) == ["two"]


def test_a_file_that_opens_nothing_is_told_of_as_a_refused_credential(worker: Running) -> None:
    with worker.client() as client:
        answer = chat(client, "::say a")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "model_authentication_failed"


def test_a_side_request_has_the_token_too(worker: Running, door: Door, model: Model) -> None:
    door.opens = {"one"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]

    def ask(system: str, prompt: str, **more: object) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        body = {"messages": messages, "model": "claude-code-tools", **more}
        return content(client.post("/v1/chat/completions", json=body))

    with worker.client() as client:
        assert ask("You are an agent.", "::say a", tools=tools) == "a"
        mark, asked = len(door.shown), model.mark()
        assert ask("You name things.", "::say a title") == "a title"
    assert [entry["tools"] for entry in model.log(asked)] == [[]], "a process of its own, without tools"
    assert set(door.since(mark)) == {"one"}
