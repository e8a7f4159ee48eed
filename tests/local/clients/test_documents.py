"""Every example in docs/clients.md runs as it stands, against a server as a newcomer has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.clients.node import run_node
from local.clients.opencode import ADDRESS, CLIENTS
from local.server import Server, serving

TEXT = CLIENTS.read_text()
RUNS = re.findall(r"<!-- run: (.+?) -->\n```(\w+)\n(.+?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without settings and credentials."""
    with serving(None, tmp_path_factory.mktemp("sessions")) as running:
        yield running


@pytest.mark.parametrize(("expected", "language", "code"), RUNS, ids=[code.splitlines()[0] for _, _, code in RUNS])
def test_an_example(newcomer: Server, tmp_path: Path, expected: str, language: str, code: str) -> None:
    local = code.replace(ADDRESS.removesuffix("/"), newcomer.url)
    assert local != code
    if language == "js":
        assert expected in run_node(tmp_path, local)
        return
    done = subprocess.run(
        [sys.executable, "-c", local],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_no_example_is_left_out_of_the_test_above() -> None:
    fenced = re.findall(r"```\w+\n(.+?)```", TEXT, flags=re.DOTALL)
    assert [code for code in fenced if ADDRESS in code and not code.startswith("{")] == [code for _, _, code in RUNS]
