"""Why a worker does not start, and what somebody has to do about it. Pure: read from the pod and its claim."""

from __future__ import annotations

from dataclasses import dataclass

from claude_crds.errors import ApiError, BadRequest, Forbidden, Invalid, NotFound
from claude_crds.events import Cause
from claude_crds.resources import WORKER_CONTAINER
from claude_crds.views import ContainerStatus, PersistentVolumeClaim, Pod, condition
from claude_operator.decide import WorkerState
from claude_operator.overlay import BadTemplate
from claude_operator.slots import Slot, cloning, worker_container

_CRASHES = 3

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """`hopeless`: this pod will not become ready; otherwise it may yet, and people are told meanwhile."""

    cause: Cause
    message: str
    hopeless: bool


def of_slot(slot: Slot, claim: PersistentVolumeClaim | None, now: float, start_timeout: float) -> Trouble | None:
    """What keeps this worker from getting ready; None while all goes well, or once it is there."""
    if slot.word is not None and slot.word.phase == "failed":
        return Trouble(Cause.CRASHED, f"The worker failed: {slot.word.error or 'it does not say why'}.", True)
    if slot.state is not WorkerState.STARTING or slot.pod is None:
        return None
    if (clone := cloning(slot.pod)) is not None and not clone.done:
        if clone.running:
            return Trouble(Cause.CLONING, "The workspace is being cloned from git.", False)
        if clone.message:
            return Trouble(Cause.CLONE, clone.message, True)
    waited = now - slot.since
    late = waited > start_timeout
    found = _of_containers(slot.pod, proven=slot.proven) or _of_scheduling(slot.pod, claim, late=late)
    if found is None and late and not slot.proven:
        return Trouble(Cause.CRASHED, f"The worker was not ready after {waited:.0f} s; see its log.", True)
    return found


def of_error(error: ApiError) -> Trouble:
    """Why the API server would not have a pod or claim."""
    text = error.status.message or str(error)
    if isinstance(error, Forbidden) and "exceeded quota" in text:
        return Trouble(Cause.QUOTA, f"The namespace's quota is used up: raise it or free some. {text}", True)
    if isinstance(error, NotFound) and "claudepool" in text.lower():
        return Trouble(Cause.POOL_MISSING, text, True)
    if isinstance(error, BadRequest | Forbidden | Invalid | NotFound):
        return Trouble(Cause.REFUSED, f"The API server refuses it; see the pool's podTemplate. {text}", True)
    return Trouble(Cause.API, f"The API server could not do it: {text}", True)


def of_template(error: BadTemplate) -> Trouble:
    """The pool's template is such that there is nothing to ask the API server for."""
    return Trouble(Cause.REFUSED, f"No pod can be made as the pool says: {error}.", True)


def volume_lost(claim: str) -> Trouble:
    """A session's volume is gone."""
    message = (
        f"PersistentVolumeClaim {claim}, which holds memory and files, does not exist any more. Restore it under this"
        " name, or delete this ClaudeSession to begin anew."
    )
    return Trouble(Cause.VOLUME_LOST, message, True)


def key_refused() -> Trouble:
    """The model refused the credential; the next worker is given whatever the Secret then says."""
    message = (
        "The model refused the API key: put a valid one into the Secret that it is from, the gateway's or the team's,"
        " or without a gateway the one that the pool's anthropic.secretRef names."
    )
    return Trouble(Cause.KEY_REFUSED, message, True)


def _of_containers(pod: Pod, *, proven: bool) -> Trouble | None:
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        waiting = status.state.waiting
        reason, text = (waiting.reason, waiting.message) if waiting else ("", "")
        what = f"container {status.name}"
        if reason in _IMAGE:
            return Trouble(
                Cause.IMAGE, f"The image of {what} cannot be had ({reason}): {text}", reason != "ErrImagePull"
            )
        if reason in _CONFIG:
            missing = "secret" in text.lower() or "configmap" in text.lower()
            cause = Cause.SECRET_MISSING if missing else Cause.REFUSED
            return Trouble(cause, f"{what[0].upper()}{what[1:]} cannot be made: {text}", True)
        crashed = status.name == WORKER_CONTAINER or not status.ready
        if crashed and status.restart_count >= (2 * _CRASHES if proven else _CRASHES) and reason == "CrashLoopBackOff":
            return Trouble(Cause.CRASHED, f"Container {status.name} keeps ending: {_last_words(status)}", True)
    return None


def _last_words(status: ContainerStatus) -> str:
    ended = status.last_state.terminated or status.state.terminated
    if ended is None:
        return "it does not say why"
    said = ended.message.strip().splitlines()
    return f"{ended.reason or 'ended'}, status {ended.exit_code}" + (f": {said[-1][:300]}" if said else "")


def _of_scheduling(pod: Pod, claim: PersistentVolumeClaim | None, *, late: bool) -> Trouble | None:
    if claim is not None and claim.status.phase == "Lost":
        return Trouble(Cause.VOLUME_LOST, f"The volume of PersistentVolumeClaim {claim.name} is lost.", True)
    scheduled = condition(pod.status.conditions, "PodScheduled")
    if scheduled is None or scheduled.status == "True":
        return None
    about_volume = any(
        word in scheduled.message.lower() for word in ("persistentvolumeclaim", "storageclass", "volume")
    )
    if claim is not None and claim.status.phase == "Pending" and about_volume:
        text = f"PersistentVolumeClaim {claim.name} gets no volume: see `kubectl describe pvc {claim.name}`."
        return Trouble(Cause.VOLUME_PENDING, f"{text} {scheduled.message}".strip(), late)
    return Trouble(Cause.UNSCHEDULABLE, f"No node takes the worker: {scheduled.message}", late)


def how_it_ended(pod: Pod) -> str:
    """Why a worker that ran is not there any more, as far as its pod says: `OOMKilled`, `Evicted: …`, or nothing."""
    if pod.status.reason:
        return f"{pod.status.reason}: {pod.status.message}".rstrip(": ")
    status = worker_container(pod)
    ended = status.last_state.terminated or status.state.terminated if status else None
    return ended.reason or f"status {ended.exit_code}" if ended else ""
