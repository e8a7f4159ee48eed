"""Prometheus metrics of the gateway. Labels are bounded: teams that exist, models that have a price."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from claude_router.gateway.scan import Counted

__all__ = ["CONTENT_TYPE", "GatewayMetrics"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 10)


class GatewayMetrics:
    """What the gateway counts. One instance a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "claude_gateway_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self._refused = Counter(
            "claude_gateway_refused_requests", "Refused here, by code.", ("code",), registry=registry
        )
        self._tokens = Counter("claude_gateway_tokens", "Tokens metered.", ("team", "model", "kind"), registry=registry)
        self._cost = Counter(
            "claude_gateway_cost_usd", "US dollars at list prices.", ("team", "model"), registry=registry
        )
        self._unpriced = Counter(
            "claude_gateway_flagged_requests", "Metered with a flag.", ("flag",), registry=registry
        )
        self.before = Histogram(
            "claude_gateway_admission_seconds",
            "From a request's headers to its first byte upstream.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.running = Gauge("claude_gateway_running_requests", "Requests not yet answered.", registry=registry)
        self.waiting = Gauge("claude_gateway_ledger_waiting_entries", "Entries not yet written.", registry=registry)

    def answered(self, route: str, status: int) -> None:
        """Count one answered request. `route` is one of a fixed few."""
        self._requests.labels(route, str(status)).inc()

    def refused(self, code: str) -> None:
        """Count one that the gateway itself refused."""
        self._refused.labels(code).inc()

    def metered(self, team: str, model: str, counted: Counted, cost: float) -> None:
        """Count what one request used."""
        kinds = {
            "input": counted.input, "output": counted.output, "cache_read": counted.cache_read,
            "cache_write": counted.cache_write_5m + counted.cache_write_1h,
        }  # fmt: skip
        for kind, tokens in kinds.items():
            if tokens:
                self._tokens.labels(team, model, kind).inc(tokens)
        if cost:
            self._cost.labels(team, model).inc(cost)

    def flagged(self, flag: str) -> None:
        """Count one row with this flag."""
        self._unpriced.labels(flag).inc()

    def render(self, waiting: int) -> bytes:
        """The exposition text."""
        self.waiting.set(waiting)
        return generate_latest(self.registry)
