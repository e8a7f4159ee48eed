"""Settings of the router on a cluster: its own from the environment, the others from its ClaudePool, live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from claude_crds import model_names as names
from claude_crds.cache import Change
from claude_crds.resources import duration
from claude_crds.settings import boolean, choice, integer, milliseconds, setting, text
from claude_crds.views import ClaudePool, PoolSpec
from claude_router.settings import PoolSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """What the one who deploys a router can set."""

    host: str = setting("HOST", "0.0.0.0", text(), "Address to listen on.")
    port: int = setting("PORT", 3000, integer(0, 65535), "Port to listen on; 0 takes any free one.")
    namespace: str = setting("NAMESPACE", "", text(), "Namespace of the conversations; empty: the router's own.")
    pool: str = setting("POOL", "default", text(), "The ClaudePool that new conversations get their workers from.")
    worker_key_file: str = setting(
        "WORKER_KEY_FILE",
        "",
        text(),
        "File with the key that workers' tokens are made from; the operator has it, too.",
    )
    api_keys_dir: str = setting(
        "API_KEYS_DIR",
        "",
        text(),
        "Folder with one file for each key of a client, followed as it changes; empty: open.",
    )
    teams: bool = setting(
        "TEAMS", False, boolean(), "Whether ClaudeTeams and their keys are followed; without any team nothing changes."
    )
    gateway_url: str = setting(
        "GATEWAY_URL", "", text(), "Address of the gateway's internal listener, for `/v1/usage`; empty: none."
    )
    audit_log: str = setting("AUDIT_LOG", "", text(), "`stdout` or a file: one line for each request; empty: off.")
    team_metrics: bool = setting(
        "TEAM_METRICS", False, boolean(), "Whether `/metrics`, which needs no key, names teams."
    )
    max_queue: int = setting(
        "MAX_QUEUE", 16, integer(0, 10_000), "Requests that may wait behind a conversation's running one; then 429."
    )
    keepalive: float = setting(
        "KEEPALIVE_MS", 5.0, milliseconds(10), "A silent stream gets a `: keepalive` comment this often."
    )
    max_body_bytes: int = setting("MAX_BODY_BYTES", 32 * 1024 * 1024, integer(1024, 2**31), "Largest request body.")
    drain_delay: float = setting(
        "DRAIN_DELAY_MS",
        2.0,
        milliseconds(),
        "On shutdown, how long new turns are still taken, until none is sent here.",
    )
    shutdown_grace: float = setting(
        "SHUTDOWN_GRACE_MS", 30.0, milliseconds(), "On shutdown, how long running turns may still take after that."
    )
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "Format of the log on standard error.")

    @property
    def api_keys_path(self) -> Path | None:
        """`API_KEYS_DIR`; None: the endpoint is open."""
        return Path(self.api_keys_dir) if self.api_keys_dir else None


class FollowedPool:
    """`PoolSettings` by a pool's spec. It is read here, once, since requests are many and changes few."""

    def __init__(self, spec: PoolSpec) -> None:
        """Raises ValueError for a duration that the definition would not allow."""
        self.queue_timeout = duration(spec.queue_timeout)
        self._models = {name: model for name, model in spec.models.items() if name not in names.RESERVED}
        self.model_ids = names.model_ids(self._models)

    def offers(self, model: str) -> bool:
        """Whether a client may ask for it."""
        return names.split(model, self._models) is not None


_DEFAULTS = FollowedPool(PoolSpec())


class LiveSettings:
    """`EndpointSettings` of which some follow the pools: those in their specs as they are now, or a pool's defaults."""

    api_keys = ()  # they are files, which `keys` follows

    def __init__(
        self, settings: ClusterSettings, *, home: Callable[[str], tuple[str, str]] = lambda tenant: ("", "")
    ) -> None:
        """`home`: pool and team of a tenant's new conversations (`claude_router.teams.Teams.home`)."""
        self.max_queue = settings.max_queue
        self.keepalive = settings.keepalive
        self.max_body_bytes = settings.max_body_bytes
        self._own = settings.pool
        self._home = home
        self._pools: dict[str, FollowedPool] = {}

    def changed(self, change: Change, old: ClaudePool | None, new: ClaudePool | None) -> None:
        """See `claude_crds.cache.Listener`."""
        if new is not None:
            self._pools[new.name] = FollowedPool(new.spec)
        elif old is not None:
            self._pools.pop(old.name, None)

    def pool_of(self, tenant: str) -> PoolSettings:
        """By the pool of the tenant's team, or the router's own. One that is not there (yet) has the defaults."""
        name, _ = self._home(tenant)
        return self._pools.get(name or self._own, _DEFAULTS)
