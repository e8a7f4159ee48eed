"""The policy: which worker is claimed, started or drained next. Pure: no I/O, no clock, no idea what a worker is.

    decision = decide(policy, sessions, workers, now)      # apply its actions in order, then decide again at any change

Laws, each held by a test of `tests/operator/test_decide_laws.py`:

1.  Size. Applying a decision never brings the live workers (every state, spares and leaving ones too) above `size`.
2.  Safety. A busy worker is never drained, nor one that a request waits for; a worker gets one action at most, and a
    session never gets a second worker while it has one, even one that is leaving (its volume has one owner).
3.  Order. Room goes to the waiting sessions by `waiting_since`. A fresh one may claim a spare past an earlier one only
    while every earlier one has room, free or on its way.
4.  Progress. As long as a session waits without room, whatever may be drained is: spares first, then idle workers, the
    least recently active first. So once turns end, every waiting session is served.
5.  Thrift. Leaving workers count as room to come, and a claimed spare needs none: nothing is drained beyond the need.
6.  Spares. They are started in free room only, never by eviction, and only when nobody waits; those above `warm` go.
7.  Shrink. Above `size`, the same drains in the same order, until within it or until only busy workers are left.
8.  Age. An idle worker goes after `idle_timeout`; stale ones go one at a time, spares first, and are never claimed.
9.  Rest. The same state with the actions applied gives no further action, until something changes or `wake_at`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, TypeAlias


class WorkerState(StrEnum):
    """How far a worker is. All four count against the pool's size."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """Asked to drain, not yet confirmed. One that refused is READY (and busy) again."""
    TERMINATING = "terminating"
    """Going, but still there."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One live worker: `session` is None for a warm spare."""

    name: str
    state: WorkerState
    session: str | None
    busy: bool = False
    """Runs something, or a request is on its way to it: between its wait and its turn it must count as either."""
    last_active: float = 0.0
    """Seconds, on the clock of `now`. Not before it was started or claimed, or it is idle before its first turn."""
    stale: bool = False
    """Made from an outdated template: replaced when idle, never claimed."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that someone waits for, that has a worker, or that was asked to suspend. Times are in seconds."""

    name: str
    waiting_since: float | None
    """Since when a request waits for a worker; None when nobody does. A request being answered does not wait."""
    fresh: bool
    """Has no volume yet, so it may claim a spare. Otherwise it needs a worker of its own, on its volume."""
    suspend_requested: bool = False
    """Holds no worker longer than its requests need. One that waits is still served, and suspended after it."""
    not_before: float = 0.0
    """Restart back-off: no worker before this time. Until then the session is not in the line."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`size`: most live workers; `warm`: spares to keep, inside `size`; `idle_timeout`: seconds, 0 for never."""

    size: int
    warm: int
    idle_timeout: float
    warm_not_before: float = 0.0
    """Back-off for spares: none is started before this time. Set it when one died unclaimed, or they loop."""


@dataclass(frozen=True, slots=True)
class StartWarm:
    """Start one spare."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Give the spare `worker` to `session`."""

    session: str
    worker: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker for `session`, on its volume (a new one if it is fresh)."""

    session: str


DrainReason: TypeAlias = Literal["idle", "evicted", "requested", "surplus", "stale"]


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask `worker` to end; a spare or a requested one may still be starting.

    `evicted` is a session's worker that makes room (or does not fit a smaller pool), `surplus` a spare that does.
    """

    worker: str
    reason: DrainReason


@dataclass(frozen=True, slots=True)
class Queue:
    """`session` waits for room, at `position` (from 1). A state rather than an act: repeated as long as it holds."""

    session: str
    position: int


Action: TypeAlias = StartWarm | Claim | Start | Drain | Queue


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, in this order; and when to decide again if nothing else happens (seconds; None: never)."""

    actions: tuple[Action, ...]
    wake_at: float | None


def decide(policy: Policy, sessions: Iterable[Session], workers: Iterable[Worker], now: float) -> Decision:
    """What to do about this state; see the module's laws. Costs O(n log n) of what is passed, nothing for the rest."""
    sessions, workers = tuple(sessions), tuple(workers)
    due = _due(policy, sessions, workers, now)
    pool = _sort(sessions, workers, leaving=_names(due))
    unserved = sorted(
        (s for s in sessions if s.waiting_since is not None and s.name not in pool.served),
        key=lambda s: (s.waiting_since, s.name),
    )
    line = [s for s in unserved if s.not_before <= now]

    # As many as there is room for once all that may go is gone. It limits the claims too, because an unclaimed spare
    # can make way: only so does a fresh session never take the capacity of an earlier one that cannot claim.
    admitted = line[: max(0, policy.size - pool.pinned)]
    claims = _claims(pool, admitted)
    starts = _starts(pool, admitted, claims, room=policy.size - len(workers))
    pool = _without(pool, {c.worker for c in claims})
    evictions = _evictions(policy, pool, taken=pool.pinned + len(admitted))
    pool = _without(pool, _names(evictions))
    stale = _stale(pool, workers, leaving=_names(due + evictions))
    pool = _without(pool, _names(stale))
    surplus = [_evict(w) for w in pool.spares[: max(0, len(pool.spares) - policy.warm)]]

    everyone = len(unserved) == len(claims) + len(starts)
    missing = min(policy.warm - len(pool.spares), policy.size - len(workers) - len(starts)) if everyone else 0
    warm = [StartWarm()] * missing if policy.warm_not_before <= now else []
    moved = {c.session for c in claims} | {s.session for s in starts}
    queue = [Queue(s.name, i) for i, s in enumerate((s for s in line if s.name not in moved), start=1)]

    wakes = [w.last_active + policy.idle_timeout for w in pool.idle if policy.idle_timeout > 0]
    wakes += [s.not_before for s in unserved]
    wakes += [policy.warm_not_before] if missing > 0 else []
    return Decision(
        actions=(*claims, *starts, *due, *evictions, *stale, *surplus, *warm, *queue),
        wake_at=min((t for t in wakes if t > now), default=None),
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """The workers by what may be done with them."""

    spares: list[Worker]
    """In the order in which they go: stale, starting, ready. Claims take from the other end."""
    idle: list[Worker]
    """Bound, ready, not busy, nobody waits: least recently active first."""
    pinned: int
    """How many must stay: busy, starting for a session, or waited for."""
    served: AbstractSet[str | None]
    """Sessions that have a worker which stays."""
    held: AbstractSet[str | None]
    """Sessions that have a worker which leaves: no other one before it is gone."""


def _sort(sessions: Sequence[Session], workers: Sequence[Worker], leaving: AbstractSet[str]) -> _Pool:
    waited_for = _waited_for(sessions)
    staying = [w for w in workers if _stays(w) and w.name not in leaving]
    served = {w.session for w in staying}
    free = [w for w in staying if not w.busy and w.session not in waited_for]
    spares = [w for w in free if w.session is None]
    idle = [w for w in free if w.session is not None and w.state is WorkerState.READY]
    return _Pool(
        spares=sorted(spares, key=lambda w: (not w.stale, w.state is WorkerState.READY, w.name)),
        idle=sorted(idle, key=lambda w: (w.last_active, w.name)),
        pinned=len(staying) - len(spares) - len(idle),
        served=served,
        held={w.session for w in workers} - served,
    )


def _without(pool: _Pool, names: AbstractSet[str]) -> _Pool:
    spares = [w for w in pool.spares if w.name not in names]
    return replace(pool, spares=spares, idle=[w for w in pool.idle if w.name not in names])


def _due(policy: Policy, sessions: Sequence[Session], workers: Sequence[Worker], now: float) -> list[Drain]:
    """Drains that are right however much room there is: requested ones, and idle ones past the timeout."""
    waited_for = _waited_for(sessions)
    suspend = {s.name for s in sessions if s.suspend_requested}
    drains = []
    for w in workers:
        if w.session is None or w.busy or not _stays(w) or w.session in waited_for:
            continue
        if w.session in suspend:
            drains.append(Drain(w.name, "requested"))
        # The same sum as in `wake_at`: `now - last_active >= idle_timeout` may round the other way, and then the
        # caller would be woken for nothing, again and again.
        elif w.state is WorkerState.READY and policy.idle_timeout > 0 and w.last_active + policy.idle_timeout <= now:
            drains.append(Drain(w.name, "idle"))
    return drains


def _claims(pool: _Pool, admitted: Sequence[Session]) -> list[Claim]:
    able = [s for s in admitted if s.fresh and s.name not in pool.held]
    claimable = [w for w in reversed(pool.spares) if not w.stale]
    return [Claim(s.name, w.name) for s, w in zip(able, claimable, strict=False)]


def _starts(pool: _Pool, admitted: Sequence[Session], claims: Sequence[Claim], room: int) -> list[Start]:
    """Room free now, in order. A held session needs none of it: its own worker's going makes room for it."""
    claimed = {c.session for c in claims}
    able = [s for s in admitted if s.name not in claimed and s.name not in pool.held]
    return [Start(s.name) for s in able[: max(0, room)]]


def _evictions(policy: Policy, pool: _Pool, taken: int) -> list[Drain]:
    """What must go so that the `taken` fit. Leaving workers are not in the sum: they are the room to come."""
    excess = taken + len(pool.spares) + len(pool.idle) - policy.size
    return [_evict(w) for w in (pool.spares + pool.idle)[: max(0, excess)]]


def _stale(pool: _Pool, workers: Sequence[Worker], leaving: AbstractSet[str]) -> list[Drain]:
    """At most one, and none before the last stale one is gone: a bad template then costs one worker, not all."""
    if any(w.stale and (not _stays(w) or w.name in leaving) for w in workers):
        return []
    return [Drain(w.name, "stale") for w in pool.spares + pool.idle if w.stale][:1]


def _evict(worker: Worker) -> Drain:
    return Drain(worker.name, "surplus" if worker.session is None else "evicted")


def _names(drains: Sequence[Drain]) -> AbstractSet[str]:
    return {d.worker for d in drains}


def _stays(worker: Worker) -> bool:
    return worker.state not in (WorkerState.DRAINING, WorkerState.TERMINATING)


def _waited_for(sessions: Sequence[Session]) -> AbstractSet[str | None]:
    return {s.name for s in sessions if s.waiting_since is not None}
