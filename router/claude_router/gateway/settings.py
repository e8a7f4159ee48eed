"""Settings of the gateway, all from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_crds.settings import SettingsError, choice, integer, mapping, milliseconds, setting, text, words
from claude_router.gateway.cloud_models import read_ids
from claude_router.gateway.crowd import MOST_AT_A_TIME
from claude_router.gateway.verify import AUDIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What the one who deploys a gateway can set. Raises SettingsError for what it cannot do."""

    host: str = setting("HOST", "0.0.0.0", text(), "Address to listen on.")
    port: int = setting("PORT", 8090, integer(0, 65535), "Port for workers; 0 takes any free one.")
    internal_port: int = setting(
        "INTERNAL_PORT", 8091, integer(0, 65535), "Port for the router and for probes; workers need not reach it."
    )
    namespace: str = setting("NAMESPACE", "", text(), "Namespace of the workers; empty: the gateway's own.")
    audience: str = setting("TOKEN_AUDIENCE", AUDIENCE, text(), "Audience of the workers' service account tokens.")
    issuer: str = setting("TOKEN_ISSUER", "", text(), "Who makes them; empty: whoever the API server says it is.")
    credentials_file: str = setting(
        "CREDENTIALS_FILE", "", text(), "JSON file of fixed credentials (by their SHA-256), instead of a cluster."
    )
    worker_key_file: str = setting(
        "WORKER_KEY_FILE", "", text(), "File with the workers' key; the router asks for usage with a token made of it."
    )
    upstream_kind: str = setting(
        "UPSTREAM_KIND", "anthropic", choice("anthropic", "bedrock", "vertex"), "What API the model has."
    )
    upstream_url: str = setting(
        "UPSTREAM_URL", "", text(), "Where it is, unless a Secret or a team says; empty: Anthropic's, or the cloud's."
    )
    upstream_dir: str = setting(
        "UPSTREAM_DIR",
        "",
        text(),
        "Folder with the model's credential, such as ANTHROPIC_API_KEY.",
    )
    upstream_models: Mapping[str, str] = setting(
        "UPSTREAM_MODELS", {}, mapping(), "A cloud's own ids for models, such as claude-opus-5=arn:aws:bedrock:…"
    )
    upstream_betas: tuple[str, ...] = setting(
        "UPSTREAM_BETAS", (), words(), "The betas that go to a cloud, instead of those that it is known to know."
    )
    team_upstreams_dir: str = setting(
        "TEAM_UPSTREAMS_DIR", "", text(), "Folder with such a folder for each team that has an account of its own."
    )
    ledger_file: str = setting("LEDGER_FILE", "gateway.sqlite3", text(), "Where requests are written down.")
    retention_days: int = setting(
        "LEDGER_RETENTION_DAYS",
        400,
        integer(0, 36_500),
        "After so many days requests are kept as sums by day, team and model only; 0: never.",
    )
    prices_file: str = setting("PRICES_FILE", "", text(), "JSON file of list prices; empty: the package's own.")
    small_models: tuple[str, ...] = setting(
        "SMALL_MODELS", ("haiku",), words(), "Models that every team may use: Claude Code's chores need one."
    )
    budget_ceiling: int = setting(
        "BUDGET_CEILING_PERCENT",
        0,
        integer(0, 100_000),
        "Of a budget, from where on even a running turn gets no more; 0: turns that have begun may end.",
    )
    clock_offset: int = setting(
        "CLOCK_OFFSET_S", 0, integer(-(10**9), 10**9), "For tests: how far the clock of budgets is ahead, in seconds."
    )
    max_body_bytes: int = setting("MAX_BODY_BYTES", 32 * 1024 * 1024, integer(1024, 2**31), "Largest request body.")
    worker_requests: int = setting(
        "WORKER_MAX_REQUESTS",
        MOST_AT_A_TIME,
        integer(1, 10_000),
        "Most requests at a time of one worker; their bodies are at most two of the largest together.",
    )
    shutdown_grace: float = setting(
        "SHUTDOWN_GRACE_MS", 30.0, milliseconds(), "On shutdown, how long running requests may still take."
    )
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "Format of the log on standard error.")

    def __post_init__(self) -> None:
        if self.upstream_url and not self.upstream_url.startswith(("https://", "http://")):
            raise SettingsError("UPSTREAM_URL: must be an http or https address")
        try:
            read_ids(self.upstream_models)
        except ValueError as error:
            raise SettingsError(f"UPSTREAM_MODELS: {error}") from error


def optional(path: str) -> Path | None:
    """The path, or None if it is empty."""
    return Path(path) if path else None
