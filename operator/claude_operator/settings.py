"""The operator's settings, all from the environment. What workers are like is in the ClaudePools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from claude_crds.settings import (
    SettingsError,
    boolean,
    choice,
    integer,
    load,
    mapping,
    milliseconds,
    setting,
    text,
    words,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """One operator looks after the pools of one namespace."""

    namespace: str = setting("NAMESPACE", "", text(), "Namespace to look after; empty: the pod's own.")
    worker_image: str = setting("WORKER_IMAGE", "", text(), "Image of workers whose pool names none.")
    worker_image_pull_policy: str = setting(
        "WORKER_IMAGE_PULL_POLICY", "IfNotPresent", choice("Always", "IfNotPresent", "Never"), "As of any container."
    )
    worker_service_account: str = setting(
        "WORKER_SERVICE_ACCOUNT", "", text(), "Service account of worker pods, whose token they do not get."
    )
    worker_key_file: str = setting("WORKER_KEY_FILE", "", text(), "File with the key that workers' tokens come from.")
    gateway_url: str = setting(
        "GATEWAY_URL", "", text(), "Where workers find the model's gateway; empty: they get the pool's key themselves."
    )
    egress_proxies: Mapping[str, str] = setting(
        "EGRESS_PROXIES", {}, mapping(), "Address of each pool's proxy, as pool=URL: the way out of its workers."
    )
    egress_no_proxy: tuple[str, ...] = setting(
        "EGRESS_NO_PROXY", (), words(), "More hosts that workers reach without it, beside the model and themselves."
    )
    egress_config_map: str = setting(
        "EGRESS_CONFIG_MAP", "", text(), "ConfigMap where the proxies find the hosts that their pools allow."
    )
    pod_name: str = setting("POD_NAME", "", text(), "This replica's name in the Lease; empty: the host's.")
    lease_name: str = setting("LEASE_NAME", "claude-operator", text(), "Lease that says which replica leads.")
    lease: float = setting(
        "LEASE_MS", 15.0, milliseconds(1000), "Without a sign of life for this long, another replica leads."
    )
    http_host: str = setting("HTTP_HOST", "0.0.0.0", text(), "Address for health and metrics.")
    http_port: int = setting("HTTP_PORT", 8081, integer(0, 65535), "Port for health and metrics.")
    max_body_bytes: int = setting(
        "MAX_BODY_BYTES", 32 * 1024 * 1024, integer(1024, 2**31), "Largest request body that workers take."
    )
    max_queue: int = setting(
        "MAX_QUEUE", 16, integer(0, 10_000), "Requests that may wait behind a conversation's running one; then 429."
    )
    start_timeout: float = setting(
        "START_TIMEOUT_MS", 120.0, milliseconds(1000), "A worker that takes longer to start has failed."
    )
    status_interval: float = setting(
        "STATUS_INTERVAL_MS", 10.0, milliseconds(100), "Turns and usage are written to a session's status this often."
    )
    resync: float = setting("RESYNC_MS", 300.0, milliseconds(1000), "All objects are listed anew this often.")
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "Format of the log on standard error.")
    log_level: str = setting("LOG_LEVEL", "info", choice("debug", "info", "warning"), "Least level logged.")
    fault_points: bool = setting(
        "FAULT_POINTS", False, boolean(), "For tests: objects with a fault label kill the operator at that point."
    )


def load_settings(environ: Mapping[str, str]) -> OperatorSettings:
    """Read and check the settings. Raises SettingsError."""
    settings = load(OperatorSettings, environ)
    for name, value in (("WORKER_IMAGE", settings.worker_image), ("WORKER_KEY_FILE", settings.worker_key_file)):
        if not value:
            raise SettingsError(f"{name} is not set")
    if settings.gateway_url and not settings.gateway_url.startswith(("http://", "https://")):
        raise SettingsError("GATEWAY_URL: must be an http or https address")
    if settings.egress_proxies and not settings.egress_config_map:
        raise SettingsError("EGRESS_CONFIG_MAP is not set, but EGRESS_PROXIES is")
    if not all(url.startswith("http://") for url in settings.egress_proxies.values()):
        raise SettingsError("EGRESS_PROXIES: must be http addresses")
    return settings
