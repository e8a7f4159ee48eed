"""A credential file that changes while the CLI runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from claude_worker import credential
from claude_worker.process import ClaudeProcess
from claude_worker.settings import WorkerSettings


class Told(ClaudeProcess):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.lines: list[Any] = []

    def write(self, line: bytes) -> None:
        self.lines.append(msgspec.json.decode(line))


def test_a_cli_is_told_of_a_newer_file_once(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t1")
    os.utime(file, (100, 100))
    process, settings = Told(), WorkerSettings(volume_dir=str(tmp_path), model_token_file=str(file))
    assert not credential.renew(process, settings), "it has read that one at its start"
    later = process.credential_read + 600
    os.utime(file, (later, later))
    assert [credential.renew(process, settings) for _ in range(2)] == [True, False]
    assert [line["request"]["subtype"] for line in process.lines] == ["apply_flag_settings"]
    assert str(file) in process.lines[0]["request"]["settings"]["apiKeyHelper"]
    file.unlink()
    assert not credential.renew(process, settings)


def test_without_such_a_file_nothing_is_said(tmp_path: Path) -> None:
    process = Told()
    assert not credential.renew(process, WorkerSettings(volume_dir=str(tmp_path)))
    assert process.lines == []
