"""The policy: which worker is claimed, started or drained next. Pure: no I/O, no clock, no idea what a worker is.

    decision = decide(policy, sessions, workers, now)      # apply its actions in order, then decide again at any change

Laws, each held by a test of `tests/operator/test_decide_laws.py`; between teams, those of `claude_operator.shares` too:

1.  Size. Applying a decision never brings the live workers (every state, spares and leaving ones too) above `size`.
2.  Safety. A busy worker is never drained (a parked one only on request), nor one that a request waits for; a worker
    gets one action at most, and a session no second worker while one is left, even leaving (its volume has one owner).
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

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Literal, TypeAlias

from claude_operator.shares import Shares
from claude_operator.shares import Turns as Turns


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
    parked: bool = False
    """Busy with nothing but waiting for results of its client's tools."""


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
    team: str = ""
    """Whose it is, and so whose its worker is. A worker of a session that is not passed counts as that of ""."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`size`: most live workers; `warm`: spares to keep, inside `size`; `idle_timeout`: seconds, 0 for never."""

    size: int
    warm: int
    idle_timeout: float
    warm_not_before: float = 0.0
    """Back-off for spares: none is started before this time. Set it when one died unclaimed, or they loop."""
    shares: Mapping[str, int] = field(default_factory=dict)
    """Most live workers by team, which is its share of the room, too. A team that is not in it has the whole pool's."""
    ended: Mapping[str, float] = field(default_factory=dict)
    """When a worker of each team was last in use, as `shares.Turns` remembers it; it only decides between equals."""


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
    own: bool = False
    """Whether it waits for its own team's limit: then the position is one among its team only."""


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
    shares = Shares(policy, sessions, workers, pool.staying, pool.idle)
    line, full = shares.line([s for s in unserved if s.not_before <= now])

    # As many as there is room for once all that may go is gone. It limits the claims too, because an unclaimed spare
    # can make way: only so does a fresh session never take the capacity of an earlier one that cannot claim.
    admitted = line[: max(0, policy.size - pool.pinned)]
    claims = _claims(pool, admitted, shares)
    starts = _starts(pool, admitted, claims, shares, room=policy.size - len(workers))
    pool = _without(pool, {c.worker for c in claims})
    evictions = _evictions(policy, pool, admitted, shares)
    pool = _without(pool, _names(evictions))
    stale = _stale(pool, workers, leaving=_names(due + evictions))
    pool = _without(pool, _names(stale))
    surplus = [_evict(w) for w in pool.spares[: max(0, len(pool.spares) - policy.warm)]]

    everyone = len(unserved) - len(full) == len(claims) + len(starts)
    missing = min(policy.warm - len(pool.spares), policy.size - len(workers) - len(starts)) if everyone else 0
    warm = [StartWarm()] * missing if policy.warm_not_before <= now else []
    moved = {c.session for c in claims} | {s.session for s in starts}
    queue = _queue([s for s in line if s.name not in moved], full)

    wakes = [w.last_active + policy.idle_timeout for w in pool.idle if policy.idle_timeout > 0]
    wakes += [s.not_before for s in unserved] + ([policy.warm_not_before] if missing > 0 else [])
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
    staying: Sequence[Worker]
    """All that do not leave."""
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
        staying=staying,
        served=served,
        held={w.session for w in workers} - served,
    )


def _without(pool: _Pool, names: AbstractSet[str]) -> _Pool:
    spares, idle = ([w for w in group if w.name not in names] for group in (pool.spares, pool.idle))
    return replace(pool, spares=spares, idle=idle)


def _due(policy: Policy, sessions: Sequence[Session], workers: Sequence[Worker], now: float) -> list[Drain]:
    """Drains that are right however much room there is: requested ones, and idle ones past the timeout."""
    waited_for, suspend = _waited_for(sessions), {s.name for s in sessions if s.suspend_requested}
    timeout, drains = policy.idle_timeout or inf, []
    for w in workers:
        if w.session is None or (w.busy and not w.parked) or not _stays(w) or w.session in waited_for:
            continue
        if w.session in suspend:
            drains.append(Drain(w.name, "requested"))
        # The same sum as in `wake_at`: `now - last_active` may round the other way, and wake the caller for nothing.
        elif not w.busy and w.state is WorkerState.READY and w.last_active + timeout <= now:
            drains.append(Drain(w.name, "idle"))
    return drains


def _claims(pool: _Pool, admitted: Sequence[Session], shares: Shares) -> list[Claim]:
    claimable = [w for w in pool.spares if not w.stale]
    claims = []
    for s in admitted:
        if claimable and s.fresh and s.name not in pool.held and shares.take(s):
            claims.append(Claim(s.name, claimable.pop().name))
    return claims


def _starts(pool: _Pool, line: Sequence[Session], claims: Sequence[Claim], shares: Shares, room: int) -> list[Start]:
    """Room free now, in order. Who is held, or whose team is, needs none of it: it comes with a worker that leaves."""
    starts: list[Start] = []
    settled = pool.held | {c.session for c in claims}
    for s in line:
        if len(starts) < room and s.name not in settled and shares.take(s):
            starts.append(Start(s.name))
    return starts


def _evictions(policy: Policy, pool: _Pool, admitted: Sequence[Session], shares: Shares) -> list[Drain]:
    """What must go so that the admitted fit. Leaving workers are not in the sum: they are the room to come."""
    own = shares.above_limit(pool.idle, admitted)
    pool = _without(pool, {w.name for w in own}) if own else pool
    excess = max(0, pool.pinned + len(admitted) + len(pool.spares) + len(pool.idle) - policy.size)
    others = [*pool.spares, *shares.making_way(pool.idle, admitted)][:excess] if excess else []
    return [_evict(w) for w in (*own, *others)]


def _queue(line: Sequence[Session], full: Sequence[Session]) -> list[Queue]:
    queue = [Queue(s.name, i) for i, s in enumerate(line, start=1)]
    ahead = Counter(s.team for s in line) if full else Counter()
    for s in full:
        ahead[s.team] += 1
        queue.append(Queue(s.name, ahead[s.team], own=True))
    return queue


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
