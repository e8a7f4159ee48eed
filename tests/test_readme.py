"""The README is executed and compared with the program: what it shows works, and what it lists is all there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from claude_router.local.banner import opencode_snippet
from claude_router.settings import RouterSettings
from local.harness import ROOT
from local.server import Server, serving
from readme import README, TABLES, with_tables

TEXT = README.read_text()
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
ADDRESS = "http://localhost:3000"
RUNS = re.findall(r"<!-- run: (.+?) -->\n```(\w+)\n(.+?)```", TEXT, flags=re.DOTALL)
COMMANDS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As a newcomer has it: no settings, no credentials."""
    with serving(None, tmp_path_factory.mktemp("sessions")) as running:
        yield running


def test_everything_in_it_runs_as_written_and_in_order(server: Server, tmp_path: Path) -> None:
    assert [language for _, language, _ in RUNS].count("bash") >= 5
    for expected, language, code in RUNS:
        assert ADDRESS in code
        done = subprocess.run(
            [*COMMANDS[language], code.replace(ADDRESS, server.url)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout, code


def test_no_command_in_it_is_left_out_of_the_test_above() -> None:
    fenced = re.findall(r"```\w+\n(.+?)```", TEXT, flags=re.DOTALL)
    assert [code for code in fenced if ADDRESS in code and not code.startswith("{")] == [code for _, _, code in RUNS]


@pytest.mark.parametrize("document", TABLES, ids=lambda path: path.name)
def test_the_settings_tables_are_those_of_the_settings_classes(document: Path) -> None:
    text = document.read_text()
    assert with_tables(document, text) == text, "run `make docs`"


def test_the_opencode_snippet_is_the_one_that_the_banner_prints(server: Server) -> None:
    found = re.search(r"<!-- opencode -->\n```json\n(.+?)```", TEXT, flags=re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == json.loads(opencode_snippet(RouterSettings(), ADDRESS))
    printed = next(line for line in server.output if line.startswith("opencode:"))
    local = server.url.replace("127.0.0.1", "localhost")
    assert json.loads(printed[printed.index("{") :]) == json.loads(found[1].replace(ADDRESS, local))


def test_the_endpoint_table_lists_every_endpoint(server: Server) -> None:
    listed = {(m.lower(), path) for m, path in re.findall(r"^\| `([A-Z]+) (\S+)` \|", TEXT, flags=re.MULTILINE)}
    paths = httpx.get(f"{server.url}/openapi.json", timeout=30).json()["paths"]
    documented = {(method, path) for path, operations in paths.items() for method in operations}
    assert listed == documented | {("get", "/docs")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_make_target_it_names_exists(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    targets = set(re.findall(r"`make ([a-z-]+)`|^ {4}(?:\S+=\S+ )*make ([a-z-]+)", text, flags=re.MULTILINE))
    named = {a or b for a, b in targets}
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert named <= known
    # Only names of ours: a file in a sentence about something else is not one.
    files = set(re.findall(r"`((?:crds|operator|router|worker-image|tests|docs)/[\w./-]*)`", text))
    assert [f for f in sorted(files) if not (ROOT / f).exists()] == []


def test_every_test_that_the_threat_model_names_exists() -> None:
    text, file, missing = (ROOT / "docs/threat-model.md").read_text(), "", []
    named = re.findall(r"`([\w/]+\.py)?::(\w+)`", text)
    for path, name in named:
        file = path or file  # without a file, the test is in the one that was named last
        source = ROOT / "tests" / file
        if not source.is_file() or not re.search(rf"^(?:async )?def {name}\(", source.read_text(), flags=re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert missing == []
    assert len(named) > 100
