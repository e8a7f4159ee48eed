"""A new workspace cloned from git: by an init container of the worker's pod, which alone has the credential. Pure.

It is there only as long as the conversation has not begun: no later pod mounts the Secret, or looks at what a
conversation has made of its volume. A spare has cloned what its pool says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from claude_crds.resources import CLONED_CONDITION, GIT_ANNOTATION, GIT_CONTAINER
from claude_crds.views import ClaudePool, ClaudeSession, Git, condition

Json = dict[str, Any]

FOLDER = "/var/run/claude-code-api/git"
_KEYS = ("username", "password", "ca.crt")
_VOLUME = "workspace-git"
_HOME = "workspace-git-tmp"
_LOG = "/dev/termination-log"
_COMMAND = ["/opt/claude-code-api/bin/python3", "-m", "claude_worker.clone"]
_PASSED_ON = frozenset((
    "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "no_proxy", "all_proxy",
))  # fmt: skip


def of(pool: ClaudePool, session: ClaudeSession | None) -> Git | None:
    """What a new workspace is cloned from: the session's own, or what the pool says (always, for a spare)."""
    if session is not None and (session.spec.workspace.git or session.spec.workspace.empty):
        return session.spec.workspace.git
    return pool.spec.workspace.git


def address(git: Git) -> str:
    """`URL` or `URL#REF`."""
    return f"{git.url}#{git.ref}" if git.ref else git.url


def begun(session: ClaudeSession) -> bool:
    """Whether its workspace is what it is: cloned, or used."""
    status = session.status
    cloned = condition(status.conditions, CLONED_CONDITION)
    return bool(status.turns or status.claude_session_id or (cloned and cloned.status == "True"))


def may_claim(pool: ClaudePool, session: ClaudeSession) -> bool:
    """Whether a spare's workspace is what the session's is to be."""
    return of(pool, session) == pool.spec.workspace.git


def container(git: Git, worker: Mapping[str, Any]) -> Json:
    """What clones: like the worker's container, so that the pod needs no more for it."""
    environment = {
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "VOLUME_DIR": "/session",
        "WORKSPACE_GIT": address(git),
        "WORKSPACE_GIT_DEPTH": str(git.depth) if git.depth else "",
        "WORKSPACE_GIT_CREDENTIALS": FOLDER,
        "TERMINATION_LOG": _LOG,
    }
    session = next(m for m in worker["volumeMounts"] if m["mountPath"] == "/session")
    secret = [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}] if git.secret_ref else []
    return {
        "name": GIT_CONTAINER,
        "command": _COMMAND,
        "env": [{"name": k, "value": v} for k, v in environment.items() if v]
        + [e for e in worker["env"] if e["name"] in _PASSED_ON],
        "terminationMessagePath": _LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [session, {"name": _HOME, "mountPath": "/tmp"}, *secret],
        **{k: worker[k] for k in ("image", "imagePullPolicy", "resources", "securityContext") if k in worker},
    }


def volumes(git: Git) -> list[Json]:
    """What it mounts beside the session's volume."""
    found: list[Json] = [{"name": _HOME, "emptyDir": {"sizeLimit": "16Mi"}}]
    if ref := git.secret_ref:
        # Only these keys, so that no other kind of Secret can be read by naming it; what is missing the clone tells.
        items = [{"key": key, "path": key} for key in _KEYS]
        secret = {"secretName": ref.name, "items": items, "defaultMode": 0o440, "optional": True}
        found.append({"name": _VOLUME, "secret": secret})
    return found


def metadata(pool: ClaudePool) -> Json:
    """The template's metadata that makes a pool's spares others when its git is another."""
    git = pool.spec.workspace.git
    return {"annotations": {GIT_ANNOTATION: msgspec.json.encode(git).decode()}} if git else {}
