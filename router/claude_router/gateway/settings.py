"""Settings of the gateway, all from the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from claude_crds.settings import SettingsError, choice, integer, milliseconds, setting, text, words
from claude_router.gateway.upstreams import ANTHROPIC
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
    upstream_url: str = setting("UPSTREAM_URL", ANTHROPIC, text(), "Where it is, unless a Secret or a team says.")
    upstream_dir: str = setting(
        "UPSTREAM_DIR", "", text(), "Folder with the model's credential: ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN."
    )
    team_upstreams_dir: str = setting(
        "TEAM_UPSTREAMS_DIR", "", text(), "Folder with such a folder for each team that has an account of its own."
    )
    ledger_file: str = setting("LEDGER_FILE", "gateway.sqlite3", text(), "Where requests are written down.")
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
    max_body_bytes: int = setting("MAX_BODY_BYTES", 32 * 1024 * 1024, integer(1024, 2**31), "Largest request body.")
    shutdown_grace: float = setting(
        "SHUTDOWN_GRACE_MS", 30.0, milliseconds(), "On shutdown, how long running requests may still take."
    )
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "Format of the log on standard error.")

    def __post_init__(self) -> None:
        if self.upstream_kind != "anthropic":
            raise SettingsError(
                f"UPSTREAM_KIND={self.upstream_kind}: not supported yet. Put a gateway that speaks the Messages API "
                "(such as LiteLLM) in front of it, and name that in UPSTREAM_URL"
            )
        if not self.upstream_url.startswith(("https://", "http://")):
            raise SettingsError("UPSTREAM_URL: must be an http or https address")


def optional(path: str) -> Path | None:
    """The path, or None if it is empty."""
    return Path(path) if path else None
