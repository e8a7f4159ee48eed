"""Slash commands: which prompts Claude Code takes as one, where SLASH_COMMANDS allows it."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"/([A-Za-z][\w:-]*)(?:\s|$)", re.ASCII)

_NEVER = frozenset(("clear", "reset", "new", "resume", "continue", "branch", "fork", "rewind", "checkpoint", "undo"))
"""They would take the conversation's memory to another session, behind the back of its history."""


def is_command(prompt: str) -> bool:
    """Whether the prompt is a command that Claude Code may run. Any other goes to the model as it is written.

    A name that Claude Code does not know is no command to it either.
    """
    found = _COMMAND.match(prompt)
    return found is not None and found[1].lower() not in _NEVER
