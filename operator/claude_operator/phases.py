"""What a session's status should say. Pure: of the session, its worker, its place in the line and its trouble."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from claude_crds.events import Cause
from claude_crds.objects import judged
from claude_crds.resources import CLONED_CONDITION, READY_CONDITION, Phase, timestamp, written_condition
from claude_crds.views import ClaudeSession, Condition, SessionStatus, Usage, condition
from claude_operator.decide import WorkerState
from claude_operator.slots import Slot, Word, cloning
from claude_operator.trouble import Trouble


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a status follows from. `unix` and `waiting_since` are Unix times; `claim` may be empty."""

    session: ClaudeSession
    slot: Slot | None
    claim: str
    waiting_since: float | None
    position: int | None
    pool_size: int
    trouble: Trouble | None
    failed: bool
    """No start is under way, and the last one failed."""
    restarts: int
    unix: float
    metered: bool = False
    """Somebody else counts what it uses, and writes that into its status."""
    team_limit: int | None = None
    """How many workers its team may have, if that is what it waits for: then `position` is one among its team."""


def target(facts: Facts) -> SessionStatus:
    """The status that is true now. Its `observed_generation` answers the session as it was read."""
    old, slot = facts.session.status, facts.slot
    phase, reason, message = _phase(facts)
    word = slot.word if slot else None
    live = slot is not None and phase is not Phase.FAILED
    generation = facts.session.metadata.generation
    if old.phase == Phase.SUSPENDING and phase in (Phase.SUSPENDING, Phase.SUSPENDED):
        # What was asked since then is still open when the worker is gone.
        generation = old.observed_generation
    return msgspec.structs.replace(
        _counted(old, word, facts.metered),
        phase=phase,
        observed_generation=generation,
        waiting_since=_moment(facts.waiting_since),
        pod_name=slot.name if slot and live else "",
        endpoint=slot.endpoint if slot and phase is Phase.READY else "",
        volume_claim_name=facts.claim or old.volume_claim_name,
        restarts=max(old.restarts, facts.restarts),
        message=message,
        conditions=(
            ready_condition(old.conditions, phase is Phase.READY, reason, message, facts.unix),
            *_cloned(facts),
        ),
    )


def _cloned(facts: Facts) -> tuple[Condition, ...]:
    """The condition of a workspace that comes from git; none for others. Once it is there, it stays so."""
    old, slot, trouble = facts.session.status.conditions, facts.slot, facts.trouble
    before = condition(old, CLONED_CONDITION)
    if before is not None and before.status == "True":
        return (before,)
    clone = cloning(slot.pod) if slot is not None and slot.pod is not None else None
    if clone is not None and clone.done:
        return (judged(old, CLONED_CONDITION, "True", "Cloned", clone.message, facts.unix),)
    if trouble is not None and trouble.cause in (Cause.CLONE, Cause.CLONING):
        return (judged(old, CLONED_CONDITION, "False", trouble.cause, trouble.message, facts.unix),)
    return (before,) if before is not None else ()


def _phase(facts: Facts) -> tuple[Phase, str, str]:
    slot, trouble = facts.slot, facts.trouble
    if slot is not None and slot.state is WorkerState.READY:
        return Phase.READY, "WorkerReady", ""
    if slot is not None and slot.state is WorkerState.STARTING:
        if trouble is not None:
            return Phase.STARTING, trouble.cause, trouble.message
        return Phase.STARTING, "WorkerStarting", ""
    if slot is not None and not facts.failed:
        if facts.waiting_since is not None:
            return Phase.SUSPENDING, "WorkerEnding", "The worker is ending; another starts as soon as it is gone."
        return Phase.SUSPENDING, "WorkerEnding", ""
    if facts.failed and trouble is not None:
        return Phase.FAILED, trouble.cause, trouble.message
    if facts.waiting_since is not None:
        return Phase.QUEUED, "WaitingForRoom", _place(facts)
    return Phase.SUSPENDED, "Suspended", ""


def _place(facts: Facts) -> str:
    if facts.position is None:
        return "It is about to get a worker."
    if facts.team_limit is not None:
        whose = f"team {facts.session.spec.team}"
        return (
            f"Number {facts.position} in the line of {whose}: all {facts.team_limit} workers of its share are in use."
        )
    if facts.pool_size == 0:
        return f"Number {facts.position} in the line: the pool's size is 0, so no worker is started."
    return f"Number {facts.position} in the line: all {facts.pool_size} workers of the pool are in use."


def _counted(old: SessionStatus, word: Word | None, metered: bool) -> SessionStatus:
    """Turns, usage and times by the worker's word, if there is one that has counted further."""
    if word is None or word.phase == "warm" or word.turns < old.turns:
        return old
    usage = word.usage
    return msgspec.structs.replace(
        old,
        turns=word.turns,
        usage=old.usage
        if metered
        else Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            cost_usd=round(usage.cost_usd, 6),
        ),
        claude_session_id=word.claude_session_id or old.claude_session_id,
        last_active_time=_moment(word.last_active or None) or old.last_active_time,
    )


def ready_condition(old: tuple[Condition, ...], ready: bool, reason: str, message: str, unix: float) -> Condition:
    """The condition Ready of a session or pool: since when it has this status stays as long as the status does."""
    return judged(old, READY_CONDITION, "True" if ready else "False", reason, message, unix)


def _moment(unix: float | None) -> datetime | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC)


def urgent(old: SessionStatus, new: SessionStatus) -> bool:
    """Whether somebody waits for this change; turns and times can be written later, all at once."""
    return _without_counters(old) != _without_counters(new)


def _without_counters(status: SessionStatus) -> SessionStatus:
    waits = status.waiting_since is not None
    conditions = tuple((c.type, c.status, c.reason, c.message) for c in status.conditions)
    return msgspec.structs.replace(
        status,
        turns=0,
        usage=Usage(),
        last_active_time=None,
        waiting_since=datetime.min if waits else None,
        claude_session_id="",
        conditions=conditions,
    )


def patch(status: SessionStatus, *, metered: bool = False) -> dict[str, Any]:
    """The merge patch that makes a session's status this one; of one that is metered, all but its usage."""
    usage = status.usage
    body: dict[str, Any] = {
        "phase": str(status.phase),
        "observedGeneration": status.observed_generation,
        "waitingSince": _written(status.waiting_since),
        "podName": status.pod_name or None,
        "endpoint": status.endpoint or None,
        "volumeClaimName": status.volume_claim_name or None,
        "claudeSessionID": status.claude_session_id or None,
        "lastActiveTime": _written(status.last_active_time),
        "turns": status.turns,
        "restarts": status.restarts,
        "message": status.message or None,
        "conditions": [observed_condition(c, status.observed_generation) for c in status.conditions],
    }
    if not metered:
        body["usage"] = {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "cachedTokens": usage.cached_tokens,
            "costUSD": usage.cost_usd,
        }
    return {"status": body}


def observed_condition(found: Condition, generation: int) -> dict[str, Any]:
    """A condition as the API has it, of what had this generation."""
    return {**written_condition(found), "observedGeneration": generation}


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment.timestamp())
