"""Reading the CLI's transcript: JSON lines, one an event, on the session's volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claude_worker.cli import transcript_path


def messages(config_dir: Path, session_id: str) -> list[dict[str, Any]]:
    """The user's and the assistant's messages, oldest first: `{"role", "content", "uuid"}`; content as stored.

    Blocking: call it off the event loop. A torn last line is left out.
    """
    path = transcript_path(config_dir, session_id)
    if path is None:
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("type") in ("user", "assistant") and not entry.get("isSidechain"):
            message = entry["message"]
            found.append({"role": message["role"], "content": message["content"], "uuid": entry.get("uuid")})
    return found
