"""Objects as the operator reads them, made from what the API server would send."""

from __future__ import annotations

import json
from typing import Any

from claude_crds.resources import CLAIMS, PODS, POOL_LABEL, POOLS, SESSION_LABEL, SESSION_UID_LABEL, SESSIONS, timestamp
from claude_crds.views import ClaudePool, ClaudeSession, PersistentVolumeClaim, Pod
from claude_operator.slots import Slot, Word


def session(
    name: str = "a", *, uid: str = "uid-a", generation: int = 1, created: float = 0.0, status: Any = None, **spec: Any
) -> ClaudeSession:
    meta = {"name": name, "namespace": "ns", "uid": uid, "generation": generation, "resourceVersion": "7"}
    body = {
        "metadata": {**meta, "creationTimestamp": timestamp(created)},
        "spec": {"conversationID": f"conversation {name}", **spec},
        "status": status or {},
    }
    return SESSIONS.decoder.decode(json.dumps(body))


def pool(name: str = "default", **spec: Any) -> ClaudePool:
    meta = {"name": name, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
    return POOLS.decoder.decode(json.dumps({"metadata": meta, "spec": spec}))


def pod(
    name: str = "p", *, bound: ClaudeSession | None = None, claim: str = "c", leaving: bool = False, **status: Any
) -> Pod:
    labels = {POOL_LABEL: "default"}
    if bound is not None:
        labels |= {SESSION_LABEL: bound.name, SESSION_UID_LABEL: bound.metadata.uid}
    meta: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "labels": labels}
    if leaving:
        meta["deletionTimestamp"] = timestamp(0)
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "session", "persistentVolumeClaim": {"claimName": claim}}]
    return PODS.decoder.decode(json.dumps({"metadata": meta, "spec": {"volumes": volumes}, "status": status}))


def claim(
    name: str = "c", phase: str = "Bound", *, created: float = 0.0, owner: str = "ClaudePool", **labels: str
) -> PersistentVolumeClaim:
    owners = [{"kind": owner, "name": "x", "uid": "y"}] if owner else []
    meta = {"name": name, "uid": f"uid-{name}", "ownerReferences": owners, "creationTimestamp": timestamp(created)}
    names = {"pool": POOL_LABEL, "session": SESSION_LABEL}
    labelled = {names[k]: v for k, v in {"pool": "default", **labels}.items() if v}
    return CLAIMS.decoder.decode(json.dumps({"metadata": {**meta, "labels": labelled}, "status": {"phase": phase}}))


def slot(made: Pod | None = None, word: Word | None = None, **values: Any) -> Slot:
    name = made.name if made else "p"
    given = {"name": name, "claim": "c", "session": None, "since": 0.0, "last_active": 0.0, "pod": made, "word": word}
    return Slot(**{**given, **values})
