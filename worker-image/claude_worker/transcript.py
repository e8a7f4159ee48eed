"""Reading the CLI's transcript: JSON lines, one an event, on the session's volume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from claude_worker.cli import transcript_path


def entries(config_dir: Path, session_id: str) -> Iterator[dict[str, Any]]:
    """The transcript's lines, oldest first; torn ones left out. Blocking."""
    path = transcript_path(config_dir, session_id)
    if path is None:
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def messages(config_dir: Path, session_id: str, fork: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """The messages of a session; while it has no transcript of its own, those up to the session and message `fork`.

    The user's and the assistant's messages, oldest first: `{"role", "content", "uuid", "message_id"}`.
    Content as stored: the model's messages come a block at a time, those of one message under one `message_id`. What
    the CLI tells the model on its own is left out. Blocking: call it off the event loop.
    """
    last = ""
    if fork and transcript_path(config_dir, session_id) is None:
        session_id, last = fork
    found = [
        {"role": m["role"], "content": m["content"], "uuid": e.get("uuid"), "message_id": m.get("id")}
        for e in entries(config_dir, session_id)
        if e.get("type") in ("user", "assistant") and not e.get("isSidechain") and not e.get("isMeta")
        for m in [e["message"]]
    ]
    end = next((i for i, message in enumerate(found, 1) if message["uuid"] == last), len(found))
    return found[:end]
