"""The Claude Code command line: which binary, which arguments, which environment.

Flags and variables as of CLI 2.1.330 (`claude --help`, the Agent SDK's transport, and probes of the binary).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from claude_worker.settings import WorkerSettings

_STREAMS = ("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose")

# A parent Claude Code session's own marks: inherited, they would tie the worker's CLI to that session.
_PARENT_MARKS = ("CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT")

# What the CLI would use before a credential that it is to read from a file.
_CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")

_HELPER_TTL = "CLAUDE_CODE_API_KEY_HELPER_TTL_MS"
"""How long the CLI uses what it has read from that file."""

_TOOL_TIMEOUT_MS = 100_000_000
"""The CLI's own default."""
_PARK_MARGIN_MS = 60_000


def find_cli(environ: Mapping[str, str] = os.environ) -> str:
    """Path of the CLI: `CLAUDE_CLI`, else the binary inside the `claude-agent-sdk` wheel, else `claude` on the PATH.

    Raises FileNotFoundError, with what to install.
    """
    if named := environ.get("CLAUDE_CLI"):
        return named
    # find_spec does not import the package, which would cost 0.7 s and 50 MB.
    spec = importlib.util.find_spec("claude_agent_sdk")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(place) / "_bundled" / "claude"
        if bundled.exists():
            return str(bundled)
    if found := shutil.which("claude"):
        return found
    raise FileNotFoundError("no Claude Code CLI found: install the package claude-agent-sdk, or set CLAUDE_CLI")


def bundled_version() -> str:
    """Version of the CLI inside the wheel, from its `claude.version` file; "" when unknown."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        marker = Path(place) / "_bundled" / "claude.version"
        if marker.exists():
            return marker.read_text().strip()
    return ""


def session_arguments(
    settings: WorkerSettings,
    session_id: str,
    *,
    resume: bool,
    model: str = "",
    resume_at: str = "",
    fork_of: str = "",
    own_tools: bool = True,
    effort: str = "",
) -> list[str]:
    """Arguments for the conversation's own process. `session_id` is a UUID; `resume` continues its transcript.

    `fork_of`: it begins instead as a copy of that session, up to and with its message `resume_at` if that is given.
    Without `own_tools` the model has neither Claude Code's tools nor the pool's MCP servers, only what `initialize`
    adds.
    """
    chosen = model or settings.model
    return [
        *_STREAMS,
        "--include-partial-messages",
        *_history(session_id, resume=resume, resume_at=resume_at, fork_of=fork_of),
        "--permission-mode",
        settings.permission_mode,
        # Nobody sits at this process: what would ask is refused instead of waiting for ever.
        "--permission-prompts",
        "none",
        # What a client's tools do is done on its side, so no permission mode but the client's own is asked.
        "--allowedTools=mcp__client",
        *(_mcp_servers(settings) if own_tools else ["--tools", "", "--strict-mcp-config"]),
        *(["--model", chosen] if chosen else []),
        *(["--effort", effort] if effort else []),
        *_credential(settings),
    ]


def credential_settings(settings: WorkerSettings) -> dict[str, str]:
    """Settings that make the CLI read MODEL_TOKEN_FILE, and come before those of its folder; empty without one."""
    return {"apiKeyHelper": f"cat {shlex.quote(settings.model_token_file)}"} if settings.model_token_file else {}


def _credential(settings: WorkerSettings) -> list[str]:
    given = credential_settings(settings)
    return [f"--settings={json.dumps(given)}"] if given else []


def _history(session_id: str, *, resume: bool, resume_at: str, fork_of: str) -> list[str]:
    at = [f"--resume-session-at={resume_at}"] if resume_at else []
    if fork_of:
        return [f"--resume={fork_of}", *at, "--fork-session", f"--session-id={session_id}"]
    return [f"--resume={session_id}", *at] if resume else [f"--session-id={session_id}"]


def _mcp_servers(settings: WorkerSettings) -> list[str]:
    """The pool's servers. They come beside those that the workspace's own settings name."""
    file = settings.seed / "mcp.json" if settings.seed else None
    # With `=`: the flag takes several values, and would take the arguments after it as well.
    return [f"--mcp-config={file}"] if file is not None and file.is_file() else []


def aside_arguments(settings: WorkerSettings, model: str) -> list[str]:
    """Arguments for a short-lived process that answers one request: no tools, no memory, no settings of the CLI's."""
    chosen = ["--model", model] if model else []
    return [
        *_STREAMS, "--include-partial-messages", "--no-session-persistence", "--tools", "", "--max-turns", "1",
        "--strict-mcp-config", "--setting-sources", "", "--permission-prompts", "none", *chosen, *_credential(settings),
    ]  # fmt: skip


def environment(settings: WorkerSettings, environ: Mapping[str, str], config_dir: Path) -> dict[str, str]:
    """The CLI's environment: the worker's own, without the worker's settings and a parent session's marks."""
    ours = {f.metadata["setting"].env for f in fields(WorkerSettings)} | {"API_KEYS", *_PARENT_MARKS}
    if settings.model_token_file:
        ours.update(_CREDENTIALS)
        environ = {_HELPER_TTL: "60000", **environ}
    env = {name: value for name, value in environ.items() if name not in ours}
    env["CLAUDE_CONFIG_DIR"] = str(config_dir)
    # Asks for `session_state_changed` frames (running/idle), which also cover work that no request started.
    env["CLAUDE_CODE_SDK_READS_SESSION_STATE"] = "1"
    env.setdefault("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    env.setdefault("DISABLE_AUTOUPDATER", "1")
    env.setdefault("CLAUDE_CODE_MAX_RETRIES", str(settings.model_retries))
    # Deferred, tools would be in no request until the model has searched for them: clients expect theirs to be there.
    env.setdefault("ENABLE_TOOL_SEARCH", "false")
    # Else the CLI cuts descriptions of tools at 4096 characters.
    env.setdefault("CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH", "200000")
    # A call that waits for the client is one call, not a task in the background.
    env.setdefault("CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS", "0")
    env["MCP_TOOL_TIMEOUT"] = str(_tool_timeout(settings, environ))
    return env


def _tool_timeout(settings: WorkerSettings, environ: Mapping[str, str]) -> int:
    """Milliseconds that a call of an MCP tool may take: longer than a turn is parked, whatever the environment says."""
    given = environ.get("MCP_TOOL_TIMEOUT", "")
    wanted = int(given) if given.isascii() and given.isdigit() else _TOOL_TIMEOUT_MS
    return max(wanted, round(settings.park_timeout * 1000) + _PARK_MARGIN_MS)


def transcript_path(config_dir: Path, session_id: str) -> Path | None:
    """The session's transcript (JSON lines), or None when nothing has been written yet.

    Its folder is named after the working directory; the id is unique, so the folder need not be computed.
    """
    return next(config_dir.glob(f"projects/*/{session_id}.jsonl"), None) if session_id else None
