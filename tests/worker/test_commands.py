"""Which prompts are commands of Claude Code."""

from __future__ import annotations

import pytest

from claude_worker.commands import is_command


@pytest.mark.parametrize("prompt", ["/review", "/review the thing", "/compact\nall", "/team:deploy now", "/mcp__a__b"])
def test_a_command(prompt: str) -> None:
    assert is_command(prompt)


@pytest.mark.parametrize("prompt", ["", "/", "review", " /review", "/etc/passwd is missing", "/ review", "//x", "/1"])
def test_no_command(prompt: str) -> None:
    assert not is_command(prompt)


@pytest.mark.parametrize("name", ["clear", "Clear", "resume", "rewind", "fork"])
def test_what_would_leave_the_conversation_is_taken_as_text(name: str) -> None:
    assert not is_command(f"/{name}")
    assert not is_command(f"/{name} x")
