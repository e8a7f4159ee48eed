"""What `make run` prints: where it is, what to try, what is in force."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from claude_router.settings import DEFAULT_MODEL, RouterSettings

_DEMO = """\
*** No credentials for a model: serving the built-in SCRIPTED DEMO MODEL. ***
*** The Claude Code CLI is real, its answers are not. Set ANTHROPIC_API_KEY  ***
*** (or ANTHROPIC_AUTH_TOKEN, or Bedrock's or Vertex's variables) for a model. ***"""


def url_of(host: str, port: int) -> str:
    """The address to type; a wildcard address is shown as `localhost`."""
    shown = "localhost" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _key(settings: RouterSettings) -> str:
    """What to write where a key goes; empty: none is needed."""
    if settings.api_keys:
        return "<one of API_KEYS>"
    return "<a team's key>" if settings.api_keys_path or settings.teams_path else ""


def opencode_snippet(settings: RouterSettings, url: str) -> str:
    """The provider for opencode.json."""
    key = {"apiKey": needed} if (needed := _key(settings)) else {}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Claude Code",
        "options": {"baseURL": f"{url}/v1", **key},
        "models": {name: {"name": name} for name in settings.model_ids},
    }
    return json.dumps({"provider": {"claude-code": provider}, "model": f"claude-code/{DEFAULT_MODEL}"})


def banner(settings: RouterSettings, url: str, *, demo: bool, permission_note: str) -> str:
    """The text, without a final newline."""
    workspaces = settings.workspace_path or "inside each session's folder"
    if settings.workspace_path:
        workspaces = f"{workspaces} ({'one folder each' if settings.workspace_per_conversation else 'one for all'})"
    body = json.dumps({"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "Hello! Where are you?"}]})
    key = f'-H "Authorization: Bearer {needed}" ' if (needed := _key(settings)) else ""
    lines = [
        *([_DEMO] if demo else []),
        f"Claude Code API on {url}/v1  (docs: {url}/docs)",
        f"Try:         curl -s {url}/v1/chat/completions {key}-H 'X-Conversation-ID: first' -d '{body}'",
        f"opencode:    put this into ~/.config/opencode/opencode.json: {opencode_snippet(settings, url)}",
        f"Sessions:    {settings.sessions_path}",
        f"Workspaces:  {workspaces}",
        f"Permissions: {settings.permission_mode}{permission_note}",
        "Ctrl-C suspends every conversation and ends; a second one ends at once.",
    ]
    return "\n".join(lines)


def permission_problem(settings: RouterSettings, environ: Mapping[str, str]) -> str | None:
    """Why the CLI would refuse to start: it does, as root with every permission. None when it would not.

    When PERMISSION_MODE was set, nothing may be put in its place, and the message says what to do instead.
    """
    # "1" and nothing else: the CLI does not take "yes" or "true".
    if settings.permission_mode != "bypassPermissions" or os.geteuid() != 0 or environ.get("IS_SANDBOX") == "1":
        return None
    if environ.get("PERMISSION_MODE"):
        return (
            "PERMISSION_MODE='bypassPermissions': Claude Code refuses it for root. Run as another user, "
            "or set IS_SANDBOX=1 if this machine is a sandbox that it may do anything in"
        )
    return ", because this is root: commands that Claude Code would ask about are refused. For all permissions run as \
another user, or set IS_SANDBOX=1 if this machine is a sandbox"
