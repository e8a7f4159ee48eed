"""The CLI's credential for the model, when it is in a file that changes while the CLI runs (MODEL_TOKEN_FILE).

The CLI reads it through its `apiKeyHelper`, and goes on with the old one while it fetches the new one. A CLI that was
idle for longer than the old one is valid would so be refused once, and wait a second: hence it is told.
"""

from __future__ import annotations

import os
import uuid

from claude_worker import cli, frames
from claude_worker.process import ClaudeProcess
from claude_worker.settings import WorkerSettings


def renew(process: ClaudeProcess, settings: WorkerSettings) -> bool:
    """Have the CLI read the file anew if it is newer than what the CLI has read; whether it was told to.

    The same settings once more are enough, and need not be waited for (CLI 2.1.330).
    """
    if not settings.model_token_file:
        return False
    try:
        changed = os.stat(settings.model_token_file).st_mtime
    except OSError:
        return False
    if changed <= process.credential_read:
        return False
    process.credential_read = changed
    request = {"subtype": "apply_flag_settings", "settings": cli.credential_settings(settings)}
    process.write(frames.control_request(uuid.uuid4().hex, request))
    return True
