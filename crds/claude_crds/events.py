"""Events: what `kubectl describe` shows of each step, and why something failed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from claude_crds.resources import OPERATOR, Resource, timestamp
from claude_crds.views import Object


class Step(StrEnum):
    """Reasons of the Events of a session's life; RESTARTED and FAILED are warnings, the rest are normal."""

    QUEUED = "Queued"
    CLAIMED = "Claimed"
    STARTED = "Started"
    READY = "Ready"
    SUSPENDED = "Suspended"
    EVICTED = "Evicted"
    RESUMED = "Resumed"
    RESTARTED = "Restarted"
    FAILED = "Failed"


class Notice(StrEnum):
    """Reasons of the Events about a team; all but BUDGET_RESET are warnings."""

    BUDGET_NEAR = "BudgetNear"
    BUDGET_EXCEEDED = "BudgetExceeded"
    BUDGET_RESET = "BudgetReset"
    KEY_EXPIRING = "KeyExpiring"
    KEY_EXPIRED = "KeyExpired"


class Cause(StrEnum):
    """Why no worker can be started: the reason of the condition Ready=False, whose message says what to do."""

    POOL_MISSING = "PoolNotFound"
    IMAGE = "ImageUnavailable"
    VOLUME_LOST = "VolumeLost"
    VOLUME_PENDING = "VolumeNotBound"
    QUOTA = "QuotaExceeded"
    REFUSED = "PodRefused"
    UNSCHEDULABLE = "Unschedulable"
    SECRET_MISSING = "SecretNotFound"
    KEY_REFUSED = "KeyRefused"
    CRASHED = "WorkerFailed"
    CLONE = "WorkspaceNotCloned"
    CLONING = "WorkspaceCloning"
    API = "ApiUnavailable"


def event(
    resource: Resource[Any],
    about: Object,
    reason: str,
    message: str,
    *,
    now: float,
    warning: bool = False,
    component: str = OPERATOR,
    name: str = "",
) -> dict[str, Any]:
    """The body of an Event about that object, to create in its namespace. `now` is Unix time.

    `name` for one that is not to be created twice; else the API server makes one up.
    """
    time = timestamp(now)
    meta = about.metadata
    return {
        "metadata": {**({"name": name} if name else {"generateName": f"{meta.name}."}), "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "reason": reason,
        "message": message,
        "type": "Warning" if warning else "Normal",
        "source": {"component": component},
        "reportingComponent": component,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
