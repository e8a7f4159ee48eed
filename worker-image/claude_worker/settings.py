"""The worker's settings, all from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_crds import model_names
from claude_crds.settings import MAX_PARK_MS, Kind, boolean, choice, integer, load, mapping, milliseconds, setting, text
from claude_worker.openai.request import MAX_BODY_BYTES

BASE_MODEL = model_names.BASE_MODEL
"""The model name that stands for the CLI's own default (or MODEL)."""

Model = model_names.Model
"""What a requested model name means: `model` to the CLI, and whose `tools` (own, both, client) it has."""

PERMISSION_MODES = ("bypassPermissions", "acceptEdits", "auto", "dontAsk", "manual", "plan")
TOOL_ACTIVITY = ("reasoning", "text", "off")
SYSTEM_PROMPT_MODES = ("append", "replace", "ignore")

DEFAULT_MODELS: Mapping[str, str] = {
    "claude-code-opus": "opus",
    "claude-code-sonnet": "sonnet",
    "claude-code-haiku": "haiku",
}


def _sha256() -> Kind[str]:
    # Written out, since bytes.fromhex also takes white space between the digits.
    digits = re.compile("[0-9a-fA-F]{64}")

    def parse(given: str) -> str:
        if not digits.fullmatch(given):
            raise ValueError
        return given.lower()

    return Kind(parse, "64 hexadecimal digits, the SHA-256 of the token")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """One worker: one volume, one CLI process, one conversation at most."""

    volume_dir: str = setting("VOLUME_DIR", "", text(), "the session's volume: memory, ledger and workspace")
    workspace_dir: str = setting("WORKSPACE_DIR", "", text(), "where Claude works; default: `workspace` in the volume")
    host: str = setting("HOST", "127.0.0.1", text(), "address to listen on")
    port: int = setting("PORT", 0, integer(0, 65535), "port to listen on; 0 takes a free one")
    token_file: str = setting("TOKEN_FILE", "", text(), "file that holds the bearer token; `-` reads one line of stdin")
    token_sha256: str = setting(
        "TOKEN_SHA256", "", _sha256(), "SHA-256 of the bearer token, instead of TOKEN_FILE", secret=True
    )
    watch_stdin: bool = setting("WATCH_STDIN", False, boolean(), "stop when standard input closes")
    permission_mode: str = setting(
        "PERMISSION_MODE", "bypassPermissions", choice(*PERMISSION_MODES), "what Claude may do without asking"
    )
    models: Mapping[str, str] = setting("MODELS", DEFAULT_MODELS, mapping(), "model names offered, and what they mean")
    model: str = setting("MODEL", "", text(), "what `claude-code` means; default: the CLI's own default")
    tool_activity: str = setting("TOOL_ACTIVITY", "reasoning", choice(*TOOL_ACTIVITY), "where tool calls are shown")
    system_prompt_mode: str = setting(
        "SYSTEM_PROMPT_MODE", "append", choice(*SYSTEM_PROMPT_MODES), "what a client's system messages do"
    )
    tools: str = setting("TOOLS", "own", choice(*model_names.TOOLS), "whose tools a model name without a suffix has")
    slash_commands: bool = setting(
        "SLASH_COMMANDS", False, boolean(), "a prompt that begins with `/` is a Claude Code command"
    )
    allow_remote_images: bool = setting(
        "ALLOW_REMOTE_IMAGES", False, boolean(), "whether images are fetched from the web addresses that clients name"
    )
    config_seed: str = setting(
        "CLAUDE_CONFIG_SEED", "", text(), "folder with what the CLI is configured by: mcp.json, CLAUDE.md, …"
    )
    model_token_file: str = setting(
        "MODEL_TOKEN_FILE", "", text(), "file with the credential for the model, read anew as it changes; empty: none"
    )
    turn_timeout: float = setting("TURN_TIMEOUT_MS", 3600.0, milliseconds(1), "longest turn; then it is interrupted")
    detach: float = setting("DETACH_MS", 3.0, milliseconds(), "how long a turn goes on after its client has left")
    park_timeout: float = setting(
        "PARK_TIMEOUT_MS",
        900.0,
        milliseconds(0, MAX_PARK_MS),
        "how long a turn waits for the client's tools on its worker",
    )
    replay: float = setting("REPLAY_MS", 600.0, milliseconds(), "how long a finished answer can be had again")
    keepalive: float = setting("KEEPALIVE_MS", 5.0, milliseconds(10), "silence after which a stream sends a comment")
    max_queue: int = setting("MAX_QUEUE", 16, integer(0, 10_000), "requests that may wait for one conversation's turn")
    max_body_bytes: int = setting("MAX_BODY_BYTES", MAX_BODY_BYTES, integer(1, 2**31), "largest request body, in bytes")
    stop_grace: float = setting("STOP_GRACE_MS", 10.0, milliseconds(0), "how long SIGTERM lets a running turn go on")
    model_retries: int = setting("MODEL_RETRIES", 4, integer(0, 20), "how often the CLI repeats a failed model request")
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "format of the log on standard error")

    @property
    def volume(self) -> Path:
        return Path(self.volume_dir)

    @property
    def workspace(self) -> Path:
        return Path(self.workspace_dir) if self.workspace_dir else self.volume / "workspace"

    @property
    def config_dir(self) -> Path:
        """The CLI's `CLAUDE_CONFIG_DIR`."""
        return self.volume / "claude"

    @property
    def seed(self) -> Path | None:
        """The folder with the pool's configuration of the CLI; None: it has none."""
        return Path(self.config_seed) if self.config_seed else None

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The names to list."""
        return model_names.model_ids(self.models)

    def resolve(self, name: str) -> Model | None:
        """What a requested model name means, a conversation after `:` left aside. None: unknown name."""
        base = name.split(":", 1)[0]
        return model_names.resolve(base, model=self.model, models=self.models, tools=self.tools)


def load_settings(environ: Mapping[str, str]) -> WorkerSettings:
    """Read the settings. Raises SettingsError."""
    return load(WorkerSettings, environ)
