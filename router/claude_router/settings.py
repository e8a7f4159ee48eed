"""Settings of the router and of the local pool: each once, named the same here, in the environment and in the docs.

    settings = load(RouterSettings, os.environ)     # SettingsError names variable, value and what is allowed

Durations are milliseconds in the environment and seconds (float) in the program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from claude_crds import git
from claude_crds import model_names as names
from claude_crds.settings import (
    MAX_PARK_MS,
    Kind,
    SettingsError,
    boolean,
    choice,
    integer,
    mapping,
    milliseconds,
    setting,
    text,
    words,
)

DEFAULT_MODEL = names.BASE_MODEL
"""The model name that is always offered; `MODEL` says what it stands for."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_API_KEY = re.compile(r"[!-~]{8,}")
_DEFAULT_MODELS = {"claude-code-opus": "opus", "claude-code-sonnet": "sonnet", "claude-code-haiku": "haiku"}


def model_names() -> Kind[Mapping[str, str]]:
    """`name=model` pairs. A name may not hold `:` (a conversation id follows it) nor be one whose meaning is fixed."""
    pairs = mapping()
    reserved = ", ".join(sorted(names.RESERVED))

    def parse(value: str) -> Mapping[str, str]:
        models = pairs.parse(value)
        if not all(_MODEL_NAME.fullmatch(name) and name not in names.RESERVED for name in models):
            raise ValueError
        return models

    return Kind(parse, f"{pairs.allowed}; names of letters, digits and . _ / - other than {reserved}")


def is_api_key(text: str) -> bool:
    """Whether it fits in an `Authorization` header and cannot be guessed at once."""
    return bool(_API_KEY.fullmatch(text))


def api_keys() -> Kind[tuple[str, ...]]:
    """Keys that fit in an `Authorization` header and cannot be guessed at once."""
    keys = words()

    def parse(value: str) -> tuple[str, ...]:
        parsed = keys.parse(value)
        if not all(map(is_api_key, parsed)):
            raise ValueError
        return parsed

    return Kind(parse, f"{keys.allowed} of keys, each at least 8 printable ASCII characters without blanks")


class PoolSettings(Protocol):
    """What the HTTP side reads of the pool that a request's conversation is to be in."""

    @property
    def queue_timeout(self) -> float:
        """Seconds that a request may wait for a worker."""

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The model names to show, the default first."""

    def offers(self, model: str) -> bool:
        """Whether a client may ask for it: one of them, or one with a suffix that says whose tools it has."""


class EndpointSettings(Protocol):
    """What the HTTP side reads, for every request anew: on a cluster some of it changes while it serves."""

    @property
    def api_keys(self) -> tuple[str, ...]:
        """Keys of clients, unless they are given to the application in another way."""

    @property
    def max_queue(self) -> int:
        """Requests that may wait behind a conversation's running one."""

    @property
    def keepalive(self) -> float:
        """Seconds after which a silent stream gets a comment."""

    @property
    def max_body_bytes(self) -> int:
        """Largest request body."""

    def pool_of(self, tenant: str) -> PoolSettings:
        """Those of the pool that the tenant's new conversations go to. Cheap: every turn asks several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What an operator of the endpoint can set. Raises SettingsError when two settings contradict each other."""

    host: str = setting("HOST", "127.0.0.1", text(), "Address to listen on.")
    port: int = setting("PORT", 3000, integer(0, 65535), "Port to listen on; 0 takes any free one.")
    api_keys: tuple[str, ...] = setting(
        "API_KEYS", (), api_keys(), "Keys that clients must send as `Authorization: Bearer …`; none: open.", secret=True
    )
    api_keys_file: str = setting(
        "API_KEYS_FILE", "", text(), "File with teams' keys, as `claude-code-api keys --file` writes it."
    )
    teams_file: str = setting("TEAMS_FILE", "", text(), "File with the teams: a list of `{name, spec}`, JSON or YAML.")
    audit_log: str = setting("AUDIT_LOG", "", text(), "`stdout` or a file: one line for each request; empty: off.")
    team_metrics: bool = setting(
        "TEAM_METRICS", False, boolean(), "Whether `/metrics`, which needs no key, names teams."
    )
    pool_size: int = setting("POOL_SIZE", 5, integer(1, 10_000), "Most live workers, warm spares included.")
    warm_workers: int = setting("WARM_WORKERS", 1, integer(0, 10_000), "Spares kept booted, inside the pool's size.")
    idle_timeout: float = setting(
        "IDLE_TIMEOUT_MS", 300.0, milliseconds(), "Suspend a conversation idle for this long; 0: never."
    )
    queue_timeout: float = setting(
        "QUEUE_TIMEOUT_MS", 30.0, milliseconds(), "Longest wait for a worker; then 503 with `Retry-After`."
    )
    max_queue: int = setting(
        "MAX_QUEUE", 16, integer(0, 10_000), "Requests that may wait behind a conversation's running one; then 429."
    )
    turn_timeout: float = setting("TURN_TIMEOUT_MS", 3600.0, milliseconds(1), "Longest turn; then it is interrupted.")
    keepalive: float = setting(
        "KEEPALIVE_MS", 5.0, milliseconds(10), "A silent stream gets a `: keepalive` comment this often."
    )
    max_body_bytes: int = setting("MAX_BODY_BYTES", 32 * 1024 * 1024, integer(1024, 2**31), "Largest request body.")
    shutdown_grace: float = setting(
        "SHUTDOWN_GRACE_MS", 30.0, milliseconds(), "On shutdown, how long running turns may still take."
    )
    sessions_dir: str = setting(
        "SESSIONS_DIR", "~/.claude-code-api/sessions", text(), "Folder of the conversations' memory."
    )
    workspace_dir: str = setting(
        "WORKSPACE_DIR", "", text(), "Folder Claude Code works in; empty: inside each conversation's own folder."
    )
    workspace_per_conversation: bool = setting(
        "WORKSPACE_PER_CONVERSATION", True, boolean(), "A folder for each conversation below it, or one for all."
    )
    workspace_git: str = setting(
        "WORKSPACE_GIT",
        "",
        git.address(),
        "`URL` or `URL#REF` that each new conversation's workspace begins as a clone of; empty: none.",
        secret=True,
    )
    workspace_git_hosts: tuple[str, ...] = setting(
        "WORKSPACE_GIT_HOSTS", (), git.hosts(), "Hosts that clients may name in `X-Claude-Workspace-Git`; none: off."
    )
    permission_mode: str = setting(
        "PERMISSION_MODE",
        "bypassPermissions",
        choice("bypassPermissions", "acceptEdits", "auto", "dontAsk", "manual", "plan"),
        "What Claude Code may do without asking; nobody is there to be asked.",
    )
    models: Mapping[str, str] = setting(
        "MODELS", _DEFAULT_MODELS, model_names(), "Model names offered beside `claude-code`, and what each stands for."
    )
    model: str = setting("MODEL", "", text(), "What `claude-code` stands for; empty: Claude Code's own default.")
    tool_activity: str = setting(
        "TOOL_ACTIVITY",
        "reasoning",
        choice("reasoning", "text", "off"),
        "Where the use of tools is shown in an answer.",
    )
    system_prompt_mode: str = setting(
        "SYSTEM_PROMPT_MODE",
        "append",
        choice("append", "replace", "ignore"),
        "What a client's system message does to Claude Code's own.",
    )
    tools: str = setting(
        "TOOLS",
        "own",
        choice(*names.TOOLS),
        "Whose tools a model name without a suffix has: Claude Code's own, the client's, or both.",
    )
    detach: float = setting("DETACH_MS", 3.0, milliseconds(), "How long a turn goes on after its client has left.")
    park_timeout: float = setting(
        "PARK_TIMEOUT_MS",
        900.0,
        milliseconds(0, MAX_PARK_MS),
        "How long a turn that waits for the client's tools keeps its worker.",
    )
    replay: float = setting(
        "REPLAY_MS", 600.0, milliseconds(), "How long a finished answer can be had again by a retry."
    )
    allow_remote_images: bool = setting(
        "ALLOW_REMOTE_IMAGES", False, boolean(), "Whether images are fetched from the web addresses that clients name."
    )
    slash_commands: bool = setting(
        "SLASH_COMMANDS", False, boolean(), "Whether a prompt that begins with `/` is a command of Claude Code."
    )
    config_seed: str = setting(
        "CLAUDE_CONFIG_SEED",
        "",
        text(),
        "Folder with mcp.json, CLAUDE.md, settings.json, commands and agents for Claude Code; see its page in docs.",
    )
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "Format of the log on standard error.")

    def __post_init__(self) -> None:
        if self.warm_workers > self.pool_size:
            raise SettingsError(
                f"WARM_WORKERS={self.warm_workers}: must be at most POOL_SIZE ({self.pool_size}), which includes them"
            )
        clones = self.workspace_git or self.workspace_git_hosts
        if clones and self.workspace_dir and not self.workspace_per_conversation:
            raise SettingsError(
                "WORKSPACE_GIT and WORKSPACE_GIT_HOSTS: need a workspace for each conversation"
                " (WORKSPACE_PER_CONVERSATION=true)"
            )

    @property
    def sessions_path(self) -> Path:
        """`SESSIONS_DIR`, absolute."""
        return Path(self.sessions_dir).expanduser().absolute()

    @property
    def api_keys_path(self) -> Path | None:
        """`API_KEYS_FILE`, absolute; None: teams have no keys."""
        return Path(self.api_keys_file).expanduser().absolute() if self.api_keys_file else None

    @property
    def teams_path(self) -> Path | None:
        """`TEAMS_FILE`, absolute; None: there is no list of teams."""
        return Path(self.teams_file).expanduser().absolute() if self.teams_file else None

    @property
    def seed_path(self) -> Path | None:
        """`CLAUDE_CONFIG_SEED`, absolute; None: Claude Code has no configuration but its own."""
        return Path(self.config_seed).expanduser().absolute() if self.config_seed else None

    @property
    def workspace_path(self) -> Path | None:
        """`WORKSPACE_DIR`, absolute; None: inside each conversation's own folder."""
        return Path(self.workspace_dir).expanduser().absolute() if self.workspace_dir else None

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The model names to show, the default first."""
        return names.model_ids(self.models)

    def offers(self, model: str) -> bool:
        """Whether a client may ask for it."""
        return names.split(model, self.models) is not None

    def pool_of(self, tenant: str) -> PoolSettings:
        """There is one pool, for everybody."""
        return self
