"""opencode from npm without its screen: `opencode run`, and `opencode serve` for what only the screen offers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from local.harness import ROOT, Json

OPENCODE = ROOT / ".tools" / "npm" / "node_modules" / ".bin" / "opencode"
CLIENTS = ROOT / "docs" / "clients.md"
ADDRESS = "http://localhost:3000"
_PROVIDER = "claude-code"


def documented(url: str) -> Json:
    """The configuration that the documentation gives, for a server at `url`."""
    found = re.search(r"<!-- opencode -->\n```json\n(.+?)```", CLIENTS.read_text(), flags=re.DOTALL)
    assert found is not None
    config: Json = json.loads(found[1].replace(ADDRESS, url))
    return config


@dataclass
class Opencode:
    """One user's opencode: a home and a project of its own, configured as documented."""

    folder: Path
    url: str
    model: str = "claude-code"
    project: Path = field(init=False)

    def __post_init__(self) -> None:
        assert OPENCODE.exists(), "opencode is not installed: run `make test-local`"
        self.project = self.folder / "project"
        self.project.mkdir(parents=True)
        settings = self.folder / "home" / ".config" / "opencode"
        settings.mkdir(parents=True)
        config = documented(self.url) | {"model": f"{_PROVIDER}/{self.model}", "autoupdate": False}
        (settings / "opencode.json").write_text(json.dumps(config))

    @property
    def _environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OPENCODE", "XDG", "ANTHROPIC", "CLAUDE"))}
        # It takes its project from PWD.
        home = {"HOME": str(self.folder / "home"), "PWD": str(self.project)}
        return env | home | {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    def run(self, *arguments: str, prompt: str = "") -> str:
        """`opencode run …`; returns what it printed.

        A prompt among the arguments comes between quotation marks when it has blanks; `prompt` goes as it is.
        """
        done = subprocess.run(
            [str(OPENCODE), "run", *arguments],
            cwd=self.project,
            env=self._environment,
            input=prompt,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serve(self) -> Iterator[Screen]:
        """`opencode serve`, which does what its screen does."""
        process = subprocess.Popen(
            [str(OPENCODE), "serve", "--port", "0"],
            cwd=self.project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
            threading.Thread(target=process.stdout.read, daemon=True).start()
            with httpx.Client(base_url=address, timeout=100) as client, ThreadPoolExecutor(1) as threads:
                yield Screen(client, threads)
        finally:
            process.kill()
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()


@dataclass
class Screen:
    """An opencode that waits for its user."""

    client: httpx.Client
    threads: ThreadPoolExecutor

    def session(self, model: str) -> Session:
        return Session(self, model)


class Session:
    """One session, by opencode's own API."""

    def __init__(self, screen: Screen, model: str) -> None:
        self._client = screen.client
        self._threads = screen.threads
        self._model = {"providerID": _PROVIDER, "modelID": model}
        self._id = self._post("/session", {})["id"]
        self._path = f"/session/{self._id}"

    def _post(self, path: str, body: Json) -> Json:
        response = self._client.post(path, json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        return answer if isinstance(answer, dict) else {}

    def say(self, text: str, *files: Json) -> str:
        """One prompt; returns the text of the answer."""
        parts = [{"type": "text", "text": text}, *files]
        return _text(self._post(f"{self._path}/message", {"model": self._model, "parts": parts}))

    def messages(self, role: str) -> list[Json]:
        found = self._client.get(f"{self._path}/message").json()
        return [message for message in found if message["info"]["role"] == role]

    def undo(self, prompt: int) -> None:
        """Go back to before the user's message of this number."""
        self._post(f"{self._path}/revert", {"messageID": self.messages("user")[prompt]["info"]["id"]})

    def redo(self) -> None:
        self._post(f"{self._path}/unrevert", {})

    def compact(self) -> None:
        self._post(f"{self._path}/summarize", self._model)

    def interrupt(self, text: str, *, once: str) -> None:
        """Give a prompt, and stop it once the screen would have shown `once`: text, or the state of a tool."""
        with self._client.stream("GET", "/event") as events:
            lines = events.iter_lines()
            next(lines)  # it listens
            running = self._threads.submit(self.say, text)
            shown = ""
            while once not in shown:
                shown += _shown(next(lines), self._id)
        self._client.post(f"{self._path}/abort")
        running.result(30)


def _shown(line: str, session: str) -> str:
    """What an event adds to a session's screen."""
    if not line.startswith("data: "):
        return ""
    properties: Json = json.loads(line[6:])["properties"]
    part = properties.get("part", {})
    if session not in (properties.get("sessionID"), part.get("sessionID")):
        return ""
    return str(properties.get("delta", "")) + str(part.get("state", {}).get("status", ""))


def _text(message: Json) -> str:
    return "".join(part["text"] for part in message.get("parts", []) if part["type"] == "text")
