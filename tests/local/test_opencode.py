"""`opencode run` from npm against the whole server, with the provider settings of the README."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from claude_router.local.banner import opencode_snippet
from claude_router.settings import RouterSettings
from local.harness import ROOT, Json, Model
from local.server import Server, serving

OPENCODE = ROOT / ".tools" / "npm" / "node_modules" / ".bin" / "opencode"


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert OPENCODE.exists(), "opencode is not installed: run `make test-local`"
    with serving(model, tmp_path_factory.mktemp("sessions")) as running:
        yield running


@dataclass
class Opencode:
    """One user's opencode: a home and a project of its own."""

    folder: Path
    server: Server

    def __post_init__(self) -> None:
        project = self.folder / "project"
        project.mkdir(parents=True)
        # What the README and the banner say, and no look for updates.
        config = json.loads(opencode_snippet(RouterSettings(), self.server.url)) | {"autoupdate": False}
        settings = self.folder / "home" / ".config" / "opencode"
        settings.mkdir(parents=True)
        (settings / "opencode.json").write_text(json.dumps(config))

    def run(self, *arguments: str) -> str:
        """`opencode run …`; returns what it printed."""
        home = str(self.folder / "home")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OPENCODE", "XDG", "ANTHROPIC", "CLAUDE"))}
        env |= {"HOME": home, "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
        done = subprocess.run(
            [str(OPENCODE), "run", *arguments],
            cwd=self.folder / "project",
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def quoted(text: str) -> str:
    """A prompt as `opencode run` sends it when it has blanks."""
    return f'"{text}"'


def titles(log: list[Json]) -> list[Json]:
    return [entry for entry in log if "title generator" in entry["system"]]


def turns(log: list[Json]) -> list[Json]:
    return [entry for entry in log if "title generator" not in entry["system"]]


def test_first_prompt_second_prompt_and_a_title_that_stays_apart(server: Server, model: Model, tmp_path: Path) -> None:
    mark = model.mark()
    opencode = Opencode(tmp_path, server)
    assert "grand hello" in opencode.run("::say grand hello")
    assert "second answer" in opencode.run("-c", "::say second answer")
    log = model.log(after=mark)
    assert len(titles(log)) >= 1, "opencode asked for a title, and got it from the model"
    assert all(entry["tools"] == [] for entry in titles(log)), "an aside has no tools"
    assert [entry["prompts"] for entry in turns(log)] == [
        [quoted("::say grand hello")],
        [quoted("::say grand hello"), quoted("::say second answer")],
    ]


def test_a_prompt_that_creates_and_edits_a_file_and_runs_a_command(
    server: Server, model: Model, tmp_path: Path
) -> None:
    opencode = Opencode(tmp_path, server)
    mark = model.mark()
    prompt = (
        "::write poem.txt roses are red\n::edit poem.txt red=>blue\n::bash wc -w < poem.txt > count.txt\n::say written"
    )
    assert "written" in opencode.run(prompt)
    turn = turns(model.log(after=mark))[-1]
    assert turn["prompts"] == [quoted(prompt)]
    with server.client() as client:
        data = client.get("/conversations", params={"limit": 1000}).json()["data"]
    poems = [p for c in data if (p := Path(c["workspace"]) / "poem.txt").exists()]
    assert [p.read_text() for p in poems] == ["roses are blue"]
    assert (poems[0].parent / "count.txt").read_text().strip() == "3"


def test_two_sessions_at_once_do_not_mix(server: Server, model: Model, tmp_path: Path) -> None:
    mark = model.mark()
    users = {name: Opencode(tmp_path / name, server) for name in ("ann", "bob")}

    def talk(name: str) -> None:
        assert f"{name} one" in users[name].run(f"::say {name} one")
        assert f"{name} two" in users[name].run("-c", f"::say {name} two")

    with ThreadPoolExecutor() as pool:
        list(pool.map(talk, users))
    log = turns(model.log(after=mark))
    for name in users:
        own = [entry["prompts"] for entry in log if name in entry["prompts"][-1]]
        first, second = quoted(f"::say {name} one"), quoted(f"::say {name} two")
        assert own == [[first], [first, second]]
