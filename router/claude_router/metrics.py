"""Prometheus metrics of the router, in a registry of their own: all start with `claude_` and name their unit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from claude_router.sessions import PoolStats

__all__ = ["CONTENT_TYPE", "RouterMetrics"]

MOST_TEAMS = 200
"""So many teams have a label of their own."""
OTHER_TEAMS = "other"

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_POOL = {
    "size": ("claude_pool_size_workers", "Most live workers."),
    "live": ("claude_pool_live_workers", "Live workers, warm spares included."),
    "busy": ("claude_pool_busy_workers", "Workers that run a turn or a background task."),
    "warm": ("claude_pool_warm_workers", "Booted spares without a conversation."),
    "suspended": ("claude_pool_suspended_conversations", "Conversations without a worker."),
    "queued": ("claude_pool_queued_conversations", "Conversations that wait for a worker."),
}


class RouterMetrics:
    """What the router counts. One instance an app. Whoever reaches the endpoint reaches these.

    `teams`: they name teams; else there is nothing about them.
    """

    def __init__(self, *, teams: bool = False) -> None:
        self._name_teams = teams
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter("claude_http_requests", "Requests answered.", ("route", "status"), registry=registry)
        self._durations = Histogram(
            "claude_http_request_duration_seconds",
            "From a request's headers to the end of its answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "claude_chat_first_byte_seconds",
            "From a chat request's headers to the first byte of its answer, keepalives not counted.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.running = Gauge("claude_chat_running_requests", "Chat requests not yet answered.", registry=registry)
        self.keepalives = Counter("claude_chat_keepalives", "Keepalive comments sent while waiting.", registry=registry)
        self.worker_lost = Counter("claude_chat_workers_lost", "Workers lost during a turn.", registry=registry)
        self._resent = Counter(
            "claude_chat_resent_requests", "Turns sent to a worker again, and why.", ("reason",), registry=registry
        )
        self._teams = Counter(
            "claude_team_requests", "Requests answered, of each team.", ("team", "status"), registry=registry
        )
        self._team_turns = Gauge(
            "claude_team_running_requests", "Chat requests of each team not yet answered.", ("team",), registry=registry
        )
        self._refused = Counter(
            "claude_team_refused_requests", "Requests that a limit of their team refused.", ("team", "code"),
            registry=registry,
        )  # fmt: skip
        self._labels: dict[str, str] = {}
        self._team_children: dict[tuple[str, int], Counter] = {}
        self._turn_gauges: dict[str, Gauge] = {}
        self._pool = {field: Gauge(name, doc, registry=registry) for field, (name, doc) in _POOL.items()}
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request. `route` is a template (`/conversations/{id}`), never a path."""
        children = self._children.get((route, status))
        if children is None:
            children = (self._requests.labels(route, str(status)), self._durations.labels(route))
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def answered_team(self, team: str, status: int) -> None:
        """Count one answered request of a team."""
        if not self._name_teams:
            return
        key = (self.team_label(team), status)
        child = self._team_children.get(key)
        if child is None:
            child = self._team_children[key] = self._teams.labels(key[0], str(status))
        child.inc()

    def refused(self, team: str, code: str) -> None:
        """Count a request that a limit of its team refused."""
        if self._name_teams:
            self._refused.labels(self.team_label(team), code).inc()

    def team_turn(self, team: str, change: int) -> None:
        """A turn of the team begins (1) or is over (-1)."""
        if not self._name_teams:
            return
        label = self.team_label(team)
        gauge = self._turn_gauges.get(label)
        if gauge is None:
            gauge = self._turn_gauges[label] = self._team_turns.labels(label)
        gauge.inc(change)

    def team_label(self, team: str) -> str:
        """The team's name; `other` for those that came when there were enough of them."""
        label = self._labels.get(team)
        if label is None:
            label = team if len(self._labels) < MOST_TEAMS else OTHER_TEAMS
            if label == team:
                self._labels[team] = team
        return label

    def resent(self, reason: str) -> None:
        """Count a turn that is sent again."""
        self._resent.labels(reason).inc()

    def render(self, stats: PoolStats) -> bytes:
        """The exposition text, with the pool as it is now."""
        for field, gauge in self._pool.items():
            gauge.set(getattr(stats, field))
        return generate_latest(self.registry)
