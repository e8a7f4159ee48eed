"""The few requests that Claude Code has with the Messages API. Any other is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is what the model gets; `name` stands for it in metrics. `metered`: it costs money."""

    method: str
    path: str
    name: str
    has_body: bool = False
    metered: bool = False
    local: bool = False
    """Whether the gateway answers it itself."""


_FIXED = {
    (route.method, route.path): route
    for route in (
        Route("POST", "/v1/messages", "messages", has_body=True, metered=True),
        Route("POST", "/v1/messages/count_tokens", "count_tokens", has_body=True),
        Route("GET", "/v1/models", "models"),
        Route("HEAD", "/", "root", local=True),
        Route("GET", "/", "root", local=True),
    )
}
_MODEL = re.compile(rb"/v1/models/[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")


def find(method: str, raw_path: bytes) -> Route | None:
    """The route of a request; `raw_path` as it came, nothing decoded, so that no two readings of it exist."""
    path = raw_path.decode("latin-1")
    if route := _FIXED.get((method, path)):
        return route
    if method == "GET" and _MODEL.fullmatch(raw_path):
        return Route("GET", path, "model")
    return None
