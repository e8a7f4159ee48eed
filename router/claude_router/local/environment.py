"""A worker's environment: its settings, the model's variables, and what any program needs. Never API_KEYS."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from claude_router.settings import RouterSettings

CREDENTIALS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
)
"""With none of these there is no model to ask."""

_NAMES = frozenset((
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "SSH_AUTH_SOCK",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "ENABLE_TOOL_SEARCH", "MAX_MCP_OUTPUT_TOKENS",
    "IS_SANDBOX", "MODEL_RETRIES", "CLAUDE_CLI", "CLOUD_ML_REGION", "MAX_THINKING_TOKENS",
    "DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "DISABLE_PROMPT_CACHING", "DISABLE_ERROR_REPORTING",
))  # fmt: skip
_PREFIXES = (
    "ANTHROPIC_", "CLAUDE_CODE_", "AWS_", "GOOGLE_", "GCLOUD_", "VERTEX_", "AZURE_", "LC_", "GIT_", "BASH_", "MCP_",
    "XDG_", "OTEL_",
)  # fmt: skip

# Of this program itself, or of a Claude Code session that this server was started from.
_NEVER = frozenset(("CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "API_KEYS"))

WORKSPACE_GIT = "WORKSPACE_GIT"
"""What a new workspace is cloned from; set anew for a worker whose conversation says otherwise."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-[^}]*)?\}")


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of this process's environment that a worker, and the CLI in it, may see."""

    def wanted(name: str) -> bool:
        upper = name.upper()  # proxies are spelt both ways
        return name not in _NEVER and (upper in _NAMES or upper.startswith(_PREFIXES))

    return {name: value for name, value in environ.items() if wanted(name)}


def worker_environment(settings: RouterSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Everything that all workers have in common; the pool adds the volume's folders."""
    return (
        passed_on(environ)
        | _named_by_servers(settings, environ)
        | {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "TOKEN_FILE": "-",
            "WATCH_STDIN": "true",
            "PERMISSION_MODE": settings.permission_mode,
            "MODELS": json.dumps(dict(settings.models)),
            "MODEL": settings.model,
            "TOOL_ACTIVITY": settings.tool_activity,
            "SYSTEM_PROMPT_MODE": settings.system_prompt_mode,
            "TURN_TIMEOUT_MS": _milliseconds(settings.turn_timeout),
            "KEEPALIVE_MS": _milliseconds(settings.keepalive),
            "MAX_QUEUE": str(settings.max_queue),
            "MAX_BODY_BYTES": str(settings.max_body_bytes),
            "LOG_FORMAT": settings.log_format,
            "TOOLS": settings.tools,
            "DETACH_MS": _milliseconds(settings.detach),
            "PARK_TIMEOUT_MS": _milliseconds(settings.park_timeout),
            "REPLAY_MS": _milliseconds(settings.replay),
            "ALLOW_REMOTE_IMAGES": str(settings.allow_remote_images).lower(),
            "SLASH_COMMANDS": str(settings.slash_commands).lower(),
            "CLAUDE_CONFIG_SEED": str(settings.seed_path or ""),
            WORKSPACE_GIT: settings.workspace_git,
        }
    )


def _named_by_servers(settings: RouterSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that the MCP servers' configuration names as `${NAME}` or `${NAME:-default}`."""
    file = settings.seed_path / "mcp.json" if settings.seed_path else None
    try:
        written = file.read_text() if file else ""
    except (OSError, ValueError):
        return {}  # the worker says what is wrong with it
    named = set(_REFERENCE.findall(written)) - _NEVER
    return {name: environ[name] for name in named if name in environ}


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
