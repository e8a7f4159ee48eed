"""What things are called on the cluster: group, labels, phases, ports; and where each kind is on the API server.

Who writes what: routers write `spec` of a ClaudeSession (and create and delete it), the operator writes `status` and
everything else. How a request asks for a worker is in `claude_crds.asks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

from claude_crds.objects import Condition
from claude_crds.views import TIPS, ClaudePool, ClaudeSession, ClaudeTeam, PersistentVolumeClaim, Pod, Secret

GROUP = "claude-code-api.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

# Standard labels of everything that the operator makes.
NAME_LABEL = "app.kubernetes.io/name"
COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
APP = "claude-code-api"
WORKER = "worker"
OPERATOR = "claude-operator"

# Ours, on worker pods and on their volumes' claims.
POOL_LABEL = f"{GROUP}/pool"
"""Name of the ClaudePool that a pod or claim belongs to."""
SESSION_LABEL = f"{GROUP}/session"
"""Name of the ClaudeSession that it is bound to. Absent: a warm spare's."""
SESSION_UID_LABEL = f"{GROUP}/session-uid"
"""Its uid: one that was deleted and begun anew has the same name."""
TEAM_LABEL = f"{GROUP}/team"
"""Name of the ClaudeTeam whose session it is, if it is one's."""
TEMPLATE_LABEL = f"{GROUP}/template"
"""Hash of what a pod was made from; another than the pool's present one: the pod is stale."""
CONVERSATION_ANNOTATION = f"{GROUP}/conversation"
"""The conversation's id, for people: it may be no label. Nothing reads it."""
GIT_ANNOTATION = f"{GROUP}/workspace-git"
"""On a worker pod that clones: from where, for people."""

TIPS_ANNOTATION = TIPS
"""On a ClaudeSession whose id was generated: the ends of its latest answers' histories. Routers write and read it."""

WORKER_CONTAINER = WORKER
GIT_CONTAINER = "workspace-git"
"""The init container that clones a new workspace."""
WORKER_PORT = 8080
PORT_NAME = "http"

READY_CONDITION = "Ready"
"""The condition type that all of ours have: its reason and message say why not."""
CLONED_CONDITION = "WorkspaceCloned"
"""Of a ClaudeSession whose workspace comes from git: its message says which commit, or why not."""


class Phase(StrEnum):
    """`status.phase` of a ClaudeSession. Views hold it as text, so that a newer operator's phase is not an error."""

    QUEUED = "Queued"
    STARTING = "Starting"
    READY = "Ready"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    FAILED = "Failed"


class Desired(StrEnum):
    """`spec.desiredState` of a ClaudeSession."""

    RUNNING = "Running"
    SUSPENDED = "Suspended"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind, and the type that its objects are read into (`dict` for all of it)."""

    api_version: str
    kind: str
    plural: str
    view: type[T]
    decoder: msgspec.json.Decoder[T] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", msgspec.json.Decoder(self.view))

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Its path on the API server; without a namespace that of a cluster's own kind, or of all namespaces."""
        root = "apis" if "/" in self.api_version else "api"
        scope = ("namespaces", namespace) if namespace else ()
        parts = (root, self.api_version, *scope, self.plural, name, subresource)
        return "/" + "/".join(part for part in parts if part)


SESSIONS = Resource(API_VERSION, "ClaudeSession", "claudesessions", ClaudeSession)
POOLS = Resource(API_VERSION, "ClaudePool", "claudepools", ClaudePool)
TEAMS = Resource(API_VERSION, "ClaudeTeam", "claudeteams", ClaudeTeam)
PODS = Resource("v1", "Pod", "pods", Pod)
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims", PersistentVolumeClaim)
SECRETS = Resource("v1", "Secret", "secrets", Secret)
EVENTS: Resource[dict[str, Any]] = Resource("v1", "Event", "events", dict)

_DURATION = re.compile(r"0|(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?(?:(\d{1,6})ms)?", re.ASCII)


def duration(text: str) -> float:
    """`1h30m` → 5400.0 seconds; `0` is 0. Reads what the definitions allow; raises ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if not match or not text:
        raise ValueError(f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def timestamp(seconds: float) -> str:
    """Unix time as the API server writes it, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def written_condition(found: Condition) -> dict[str, Any]:
    """A condition as the API has it."""
    since = found.last_transition_time
    return {
        "type": str(found.type),
        "status": found.status,
        "reason": str(found.reason),
        "message": found.message,
        "lastTransitionTime": None if since is None else timestamp(since.timestamp()),
    }


def labels(pool: str, session: ClaudeSession | None = None) -> Mapping[str, str]:
    """Labels of a pool's worker pods and claims; without a session, those of a warm spare."""
    ours = {NAME_LABEL: APP, COMPONENT_LABEL: WORKER, MANAGED_BY_LABEL: OPERATOR, POOL_LABEL: pool}
    return {**ours, **binding(session)} if session else ours


def binding(session: ClaudeSession) -> Mapping[str, str]:
    """The labels that bind a pod or claim to a session."""
    team = {TEAM_LABEL: session.spec.team} if session.spec.team else {}
    return {SESSION_LABEL: session.name, SESSION_UID_LABEL: session.metadata.uid, **team}


WORKERS_SELECTOR = f"{NAME_LABEL}={APP},{COMPONENT_LABEL}={WORKER}"
"""Finds all worker pods and claims."""
