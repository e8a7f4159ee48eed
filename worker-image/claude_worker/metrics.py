"""The worker's few figures in Prometheus' text format, straight from its status."""

from __future__ import annotations

from typing import Any

_GAUGES = (
    ("claude_worker_busy", "1 while a turn, a side task or a background task runs", lambda v: int(v["busy"])),
    ("claude_worker_queued_requests", "requests that wait for their turn", lambda v: v["queued"]),
    ("claude_worker_background_tasks", "background tasks of the CLI", lambda v: v["background_tasks"]),
    ("claude_worker_last_active_timestamp_seconds", "last activity, Unix time", lambda v: v["last_active"]),
)
_COUNTERS = (
    ("claude_worker_turns_total", "turns since the conversation began", lambda v: v["turns"]),
    ("claude_worker_input_tokens_total", "tokens read, cached ones included", lambda v: v["usage"]["input_tokens"]),
    ("claude_worker_output_tokens_total", "tokens written", lambda v: v["usage"]["output_tokens"]),
    ("claude_worker_cached_tokens_total", "tokens read from the cache", lambda v: v["usage"]["cached_tokens"]),
    ("claude_worker_cost_dollars_total", "cost in US dollars", lambda v: v["usage"]["cost_usd"]),
)


def render(view: dict[str, Any]) -> str:
    """The text for `GET /metrics`, from `Status.view()`."""
    kinds = [("gauge", _GAUGES), ("counter", _COUNTERS)]
    lines = [
        f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value(view)}\n"
        for kind, metrics in kinds
        for name, text, value in metrics
    ]
    return "".join(lines)
