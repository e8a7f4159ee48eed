"""What the operator knows of each worker pod of a pool, and how `decide` sees it.

A slot lives from the decision to make a pod until nothing of the pod is left. The API's objects are the truth; what is
only here (a drain that is under way, the worker's own word) can be found out again by another operator.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from claude_crds.resources import (
    GIT_CONTAINER,
    SESSION_LABEL,
    SESSION_UID_LABEL,
    TEMPLATE_LABEL,
    WORKER_CONTAINER,
    WORKER_PORT,
)
from claude_crds.views import ContainerStatus, Pod
from claude_operator.decide import Worker, WorkerState

if TYPE_CHECKING:
    from claude_operator.trouble import Trouble

HOLD_SECONDS = 2.0
"""How long a worker counts as busy on our word alone: from its publication, or refusal to drain, to its own word."""


class WordUsage(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0


class Word(msgspec.Struct, frozen=True):
    """A worker's own word: the JSON of its `GET /status`. `last_active` is Unix time."""

    phase: str
    busy: bool = False
    last_active: float = 0.0
    turns: int = 0
    usage: WordUsage = WordUsage()
    claude_session_id: str | None = None
    error: str | None = None
    problem: str | None = None
    parked: bool = False


@dataclass(slots=True, eq=False)
class Slot:
    """One worker pod, existing or about to. Times are on the operator's clock."""

    name: str
    claim: str
    session: str | None
    since: float
    """When it was decided, or first seen."""
    last_active: float
    team: str = ""
    """Of its session: counts until the pod is gone, whatever becomes of the session."""
    pod: Pod | None = None
    word: Word | None = None
    followed: asyncio.Task[None] | None = None
    operation: asyncio.Task[None] | None = None
    """The write that is under way; until its end nothing else is done to this pod."""
    draining: str = ""
    """Why it was asked to end."""
    drained_at: float = 0.0
    deleting: bool = False
    published: bool = False
    """Its session has been told where it is."""
    proven: bool = False
    """It has been ready once: its end is no failed start."""
    held_until: float = 0.0
    restarts: int = 0
    turns_at_publication: int = 0
    owning: bool = False
    """Its claim is being given to its session."""
    no_volume: bool = False
    """Its claim got no volume: the next one is made as the pool then says."""
    outdated: bool = False
    """Its credential is not the pool's any more."""
    trouble: Trouble | None = None
    """What keeps it from getting ready, for people."""
    kind: str = ""
    """How its session came to it: claim, start (on a new volume) or resume."""

    @property
    def session_uid(self) -> str:
        """Of the session that its pod is bound to; empty where the pod does not say."""
        return self.pod.metadata.labels.get(SESSION_UID_LABEL, "") if self.pod else ""

    @property
    def state(self) -> WorkerState:
        pod = self.pod
        if self.deleting or (pod is not None and (pod.leaving or pod.status.phase in ("Failed", "Succeeded"))):
            return WorkerState.TERMINATING
        if self.draining:
            return WorkerState.DRAINING
        if pod is None or self.word is None or self.word.phase not in ("warm", "bound"):
            return WorkerState.STARTING
        return WorkerState.READY

    @property
    def leaving(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.TERMINATING)

    @property
    def endpoint(self) -> str:
        """Where it listens; empty while it has no address."""
        address = self.pod.status.pod_ip if self.pod else ""
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{WORKER_PORT}" if address else ""

    def busy(self, now: float) -> bool:
        return now < self.held_until or (self.word is not None and self.word.busy)

    def hear(self, word: Word, now: float) -> None:
        """Take in the worker's own word."""
        if word.busy or word.turns > self.turns_at_publication:
            self.held_until = 0.0
        self.word = word
        # Its times are on another clock; only their distance from now is used.
        if word.last_active:
            self.last_active = max(self.last_active, now - max(0.0, time.time() - word.last_active))

    def publish(self, now: float) -> None:
        """A request is on its way to it from now on."""
        self.published = True
        self.last_active = max(self.last_active, now)
        self.held_until = now + HOLD_SECONDS
        self.turns_at_publication = self.word.turns if self.word else 0

    def view(self, now: float, template: str) -> Worker:
        """As `decide` sees it. `template`: the hash of what the pool asks for; empty if none can be made like that."""
        label = self.pod.metadata.labels.get(TEMPLATE_LABEL) if self.pod else template
        # For what cannot be made nobody has to go.
        stale = self.outdated or bool(template and label != template)
        parked = now >= self.held_until and self.word is not None and self.word.parked
        return Worker(self.name, self.state, self.session, self.busy(now), self.last_active, stale, parked)


def bound_to(pod: Pod) -> str | None:
    """The session that the pod's labels name."""
    return pod.metadata.labels.get(SESSION_LABEL)


def claim_of(pod: Pod) -> str:
    """The claim that holds its session's volume."""
    for volume in reversed(pod.spec.volumes):
        if volume.persistent_volume_claim:
            return volume.persistent_volume_claim.claim_name
    return ""


def worker_container(pod: Pod) -> ContainerStatus | None:
    """How its worker container is."""
    return next((c for c in pod.status.container_statuses if c.name == WORKER_CONTAINER), None)


class Clone(NamedTuple):
    """How far the clone of a pod's workspace is; `message` is its own, one line."""

    running: bool
    done: bool
    message: str


def cloning(pod: Pod) -> Clone | None:
    """None where nothing is cloned, or nothing is known of it yet."""
    found = next((c for c in pod.status.init_container_statuses if c.name == GIT_CONTAINER), None)
    if found is None:
        return None
    ended = found.state.terminated or found.last_state.terminated
    if ended is not None:
        return Clone(running=False, done=ended.exit_code == 0, message=ended.message.strip())
    return Clone(running=found.state.waiting is None, done=False, message="")
