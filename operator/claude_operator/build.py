"""The manifests of worker pods and of their volumes' claims. Pure: the same pool gives the same manifest.

A worker's pod has what the *restricted* Pod Security Standard asks for, the session's volume at /session and
empty directories at /tmp and HOME. A pool's `podTemplate` is laid over that: maps are merged, lists of named things are
merged by name, other values replace ours; the operator's own labels and what makes a worker a worker stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from claude_crds.resources import (
    API_VERSION,
    CONVERSATION_ANNOTATION,
    GIT_ANNOTATION,
    GIT_CONTAINER,
    PORT_NAME,
    TEMPLATE_LABEL,
    WORKER_CONTAINER,
    WORKER_PORT,
    duration,
    labels,
)
from claude_crds.tokens import token_hash
from claude_crds.views import ClaudePool, ClaudeSession, Git
from claude_operator import claude, egress, gateway, git
from claude_operator.overlay import ROOT, entries, merge, of_template
from claude_operator.settings import OperatorSettings

Json = dict[str, Any]

USER = 10001
_VOLUME = "session"
_GRACE_SECONDS = 30
"""For a worker that was not drained before: its own grace is shorter."""

_RESOURCES: Json = {"requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "256Mi"},
                    "limits": {"memory": "2Gi", "ephemeral-storage": "4Gi"}}  # fmt: skip


def template(pool: ClaudePool, settings: OperatorSettings) -> Json:
    """What all worker pods of the pool have in common: metadata and spec, without name, volume and token.

    Raises BadTemplate, as `pod` does.
    """
    ours, theirs = _ours(pool, settings), pool.spec.pod_template
    with of_template():
        merged: Json = merge(ours, {k: v for k, v in theirs.items() if k in ("metadata", "spec")})
        entries(merged["spec"].get("initContainers", []), (*ROOT, "spec", "initContainers"))
        # The worker comes first, whatever a template adds: `kubectl exec` and `kubectl logs` take the first.
        merged["spec"]["containers"].sort(key=lambda c: c["name"] != WORKER_CONTAINER)
        return merged


def _ours(pool: ClaudePool, settings: OperatorSettings) -> Json:
    """What the pool's `podTemplate` is laid over."""
    spec = pool.spec
    configuration = claude.files(spec.claude)
    return {
        "metadata": merge(claude.metadata(configuration), git.metadata(pool)),
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **({"serviceAccountName": settings.worker_service_account} if settings.worker_service_account else {}),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(pool, settings)],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "home", "emptyDir": {}},
                *claude.volumes(spec.claude, configuration),
                *gateway.volumes(settings),
            ],
        },
    }


def _container(pool: ClaudePool, settings: OperatorSettings) -> Json:
    return {
        "name": WORKER_CONTAINER,
        "image": pool.spec.image or settings.worker_image,
        "imagePullPolicy": settings.worker_image_pull_policy,
        "env": _environment(pool, settings),
        "ports": [{"name": PORT_NAME, "containerPort": WORKER_PORT}],
        "resources": _RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # A worker that answers nothing any more is started again, on the same volume.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": WORKER_PORT},
            "initialDelaySeconds": 30,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": _VOLUME, "mountPath": "/session"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": "/home/claude"},
            *claude.mounts(pool.spec.claude),
            *gateway.mounts(settings),
        ],
    }


def _environment(pool: ClaudePool, settings: OperatorSettings) -> list[Json]:
    spec = pool.spec
    values = {
        "HOST": "0.0.0.0",
        "PORT": str(WORKER_PORT),
        "VOLUME_DIR": "/session",
        "HOME": "/home/claude",
        "TMPDIR": "/tmp",
        "IS_SANDBOX": "1",
        "PERMISSION_MODE": spec.permission_mode,
        "MODELS": json.dumps(spec.models, sort_keys=True),
        "MODEL": spec.model,
        "TOOL_ACTIVITY": spec.tool_activity,
        "SYSTEM_PROMPT_MODE": spec.system_prompt,
        "TURN_TIMEOUT_MS": str(round(duration(spec.turn_timeout) * 1000)),
        "MAX_BODY_BYTES": str(settings.max_body_bytes),
        "MAX_QUEUE": str(settings.max_queue),
        "LOG_FORMAT": "json",
        "TOOLS": spec.tools,
        "PARK_TIMEOUT_MS": str(round(duration(spec.park_timeout) * 1000)),
        "ALLOW_REMOTE_IMAGES": "true" if spec.remote_images else "",
        "SLASH_COMMANDS": "true" if spec.claude.slash_commands else "",
        "CLAUDE_CONFIG_SEED": claude.PATH if claude.mounts(spec.claude) else "",
        "ANTHROPIC_BASE_URL": spec.anthropic.base_url,
        **gateway.environment(settings),
        **egress.environment(pool, settings),
    }
    environment: list[Json] = [{"name": k, "value": v} for k, v in values.items() if v]
    # With a gateway no worker has a key of the model's, whatever its pool says.
    if (ref := spec.anthropic.secret_ref) and not settings.gateway_url:
        source = {"secretKeyRef": {"name": ref.name, "key": ref.key}}
        environment.append({"name": "ANTHROPIC_API_KEY", "valueFrom": source})
    return environment


def template_hash(made: Mapping[str, Any]) -> str:
    """Ten characters that are others as soon as any worker made from it would be another."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:10]


@of_template()
def pod(
    made: Mapping[str, Any], pool: ClaudePool, name: str, claim: str, token: str, session: ClaudeSession | None
) -> Json:
    """A worker pod of that template, on that claim; bound to a session, or a warm spare.

    Where the workspace is to come from git, and nothing has begun on it, it clones first.
    """
    whole: Json = msgspec.json.decode(msgspec.json.encode(made))
    ours = {**labels(pool.name, session), TEMPLATE_LABEL: template_hash(made)}
    source = None if session and git.begun(session) else git.of(pool, session)
    annotations = {CONVERSATION_ANNOTATION: session.spec.conversation_id} if session else {}
    if source:
        annotations[GIT_ANNOTATION] = git.address(source)
    metadata = whole["metadata"]
    metadata.get("annotations", {}).pop(GIT_ANNOTATION, None)
    whole["metadata"] = {
        "name": name,
        "labels": {**metadata.get("labels", {}), **ours},
        "annotations": {**metadata.get("annotations", {}), **annotations},
        "ownerReferences": [owner(pool, "ClaudePool")],
    }
    spec = whole["spec"]
    spec["volumes"] = [v for v in spec["volumes"] if v.get("name") != _VOLUME]
    spec["volumes"].append({"name": _VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    worker = next(c for c in spec["containers"] if c["name"] == WORKER_CONTAINER)
    worker["env"] = [e for e in worker["env"] if e["name"] != "TOKEN_SHA256"]
    _clone(spec, source, worker)
    worker["env"].append({"name": "TOKEN_SHA256", "value": token_hash(token)})
    return whole


def _clone(spec: Json, source: Git | None, worker: Json) -> None:
    """What clones comes first, with what the template says of it; without a source it is not there."""
    others = [c for c in spec.get("initContainers", ()) if c.get("name") != GIT_CONTAINER]
    theirs = [c for c in spec.get("initContainers", ()) if c.get("name") == GIT_CONTAINER]
    if source:
        spec["volumes"] += git.volumes(source)
        at = (*ROOT, "spec", f"initContainers[{GIT_CONTAINER}]")
        others.insert(0, merge(git.container(source, worker), theirs[0] if theirs else {}, at))
    if others:
        spec["initContainers"] = others
    else:
        spec.pop("initContainers", None)


def claim(pool: ClaudePool, name: str, session: ClaudeSession | None) -> Json:
    """The claim of a session's volume; a spare's belongs to the pool until a session claims it."""
    workspace = pool.spec.workspace
    spec: Json = {
        "accessModes": list(workspace.access_modes),
        "resources": {"requests": {"storage": workspace.size}},
    }
    if workspace.storage_class_name:
        spec["storageClassName"] = workspace.storage_class_name
    return {
        "metadata": {
            "name": name,
            "labels": dict(labels(pool.name, session)),
            "ownerReferences": [claim_owner(pool, session)],
        },
        "spec": spec,
    }


def claim_owner(pool: ClaudePool, session: ClaudeSession | None) -> Json:
    """Who a claim goes with: its session, and while it has none its pool."""
    return owner(session, "ClaudeSession") if session else owner(pool, "ClaudePool")


def owner(object_: ClaudePool | ClaudeSession, kind: str) -> Json:
    """An owner reference that garbage collection follows."""
    meta = object_.metadata
    return {"apiVersion": API_VERSION, "kind": kind, "name": meta.name, "uid": meta.uid, "controller": True}
