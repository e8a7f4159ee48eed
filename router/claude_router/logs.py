"""The router's log: one line a request, in the form of `claude_crds.logs`."""

from __future__ import annotations

import logging
from typing import Any

from claude_crds.logs import JsonFormatter, TextFormatter, configure

__all__ = ["QUIET_ROUTES", "JsonFormatter", "TextFormatter", "access", "configure", "log_access"]

access = logging.getLogger("claude_router.access")
"""One line a request."""

QUIET_ROUTES = frozenset({"/health", "/livez", "/metrics"})
"""Asked every few seconds, by probes and scrapers."""


def log_access(method: str, route: str, status: int, seconds: float, **more: Any) -> None:
    """The line of one request; `route` is a template. Of `more` (the conversation's name, …) Nones are left out."""
    level = logging.DEBUG if route in QUIET_ROUTES else logging.INFO
    if not access.isEnabledFor(level):
        return
    fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
    fields.update((key, value) for key, value in more.items() if value is not None)
    access.log(level, "request", extra={"fields": fields})
