"""Prometheus metrics of the operator, in a registry of their own: all start with `claude_operator_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from claude_crds.views import PoolStatus, TeamStatus

MOST_TEAMS = 200
"""So many teams have a label of their own."""
OTHER_TEAMS = "other"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 120, 300)


class OperatorMetrics:
    """What the operator counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.leader = Gauge("claude_operator_leader", "1 while this replica leads.", registry=registry)
        self._sessions = Gauge("claude_operator_sessions", "Sessions by phase.", ("pool", "phase"), registry=registry)
        self._workers = Gauge("claude_operator_workers", "Worker pods by kind.", ("pool", "kind"), registry=registry)
        self._teams: dict[str, TeamStatus] = {}
        self._of_teams = {
            "sessions": Gauge("claude_operator_team_sessions", "Conversations.", ("team",), registry=registry),
            "live": Gauge("claude_operator_team_live_workers", "Worker pods.", ("team",), registry=registry),
            "turns": Gauge("claude_operator_team_turns", "Turns of its conversations.", ("team",), registry=registry),
        }
        self._waits = Histogram(
            "claude_operator_wait_seconds",
            "From a session's ask to its worker: by a claim, a start on a new volume, a resume, a restart.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.suspends = Histogram(
            "claude_operator_suspend_seconds",
            "From a drain to the end of the pod.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.rounds = Histogram(
            "claude_operator_round_seconds",
            "A look at a pool, with all that is decided in it.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5),
            registry=registry,
        )
        self.errors = Counter("claude_operator_errors", "Writes and rounds that failed.", ("kind",), registry=registry)
        self.evictions = Counter(
            "claude_operator_drains", "Workers that were asked to end.", ("reason",), registry=registry
        )

    def waited(self, kind: str, seconds: float) -> None:
        """A session got its worker."""
        self._waits.labels(kind).observe(seconds)

    def pool(self, name: str, status: PoolStatus) -> None:
        """The counts of a pool."""
        for kind in ("live", "busy", "warm"):
            self._workers.labels(name, kind).set(getattr(status, kind))
        self._sessions.labels(name, "Suspended").set(status.suspended)
        self._sessions.labels(name, "Queued").set(status.queued)

    def phases(self, name: str, counts: dict[str, int]) -> None:
        """How many attended sessions of a pool are in each phase."""
        for phase in ("Starting", "Ready", "Suspending", "Failed"):
            self._sessions.labels(name, phase).set(counts.get(phase, 0))

    def team(self, name: str, status: TeamStatus | None) -> None:
        """The counts of a team; None: it is gone."""
        if status is not None:
            self._teams[name] = status
        else:
            self._teams.pop(name, None)

    def render(self) -> bytes:
        """Prometheus' text format. Of many teams those that came first are named."""
        for field, gauge in self._of_teams.items():
            gauge.clear()
            for number, (name, status) in enumerate(self._teams.items()):
                gauge.labels(name if number < MOST_TEAMS else OTHER_TEAMS).inc(getattr(status, field))
        return generate_latest(self.registry)
