"""How a request asks for a worker: the protocol between routers and operator. Level-triggered, and no ask can be lost.

An ask is a change of `spec` that leaves `desiredState: Running`. The API server numbers these changes itself
(`metadata.generation`), and every status that the operator writes names the one that it answers
(`status.observedGeneration`). No clocks are compared, no field is cleared by two parties, and neither side needs to
have seen an event: both only look at the object as it is.

    open ask  ⇔  desiredState is Running and generation ≠ observedGeneration

Router, for every request of a session without a worker:
- creates the session if there is none (that is the first ask; 409 AlreadyExists: another router did);
- as long as the request waits, and whenever what it sees says `must_ask`, patches `ask()`: one small write, the same
  from any number of routers;
- patches `renewal()` every RENEW_SECONDS while a request waits. It may do so while requests use the worker, too, as the
  stamp of activity; the worker's own word is what counts.
- Failed is the answer to its ask only when `answered` is true of the generation that its patch came back with.

Operator:
- `asked`: the session waits. Queued and Starting are asks that it has taken up: they wait too. One that nobody renews
  for LAPSE_SECONDS, on the operator's own clock since it last saw the generation change, is over: nobody waits.
- gives every session a status: Suspended, if it is not asked for (new, but with desiredState Suspended or restored);
- writes in every status the generation of the object that it decided on, and never a newer one; and only onto that very
  resourceVersion, since a session that was deleted and begun anew has the same name;
- writes Suspending **before** it calls drain, and keeps that status's observedGeneration in the Suspended that follows.
  So an ask that the decision did not see is newer, and open until the worker has ended; and a router whose turn the
  worker refused will see Suspending, and ask.

A person's `desiredState: Suspended` (or `DELETE /conversations/{id}`) is fulfilled when no request waits or runs, and
stays until the next ask sets Running again. Changing Suspended to Running is an ask like any other.
"""

from __future__ import annotations

from typing import Any

from claude_crds.resources import Desired, Phase, timestamp
from claude_crds.views import ClaudeSession

RENEW_SECONDS = 10.0
"""The most often that one router writes to one session while a request waits or runs."""

LAPSE_SECONDS = 30.0
"""Three renewals: one may be lost, and one late."""

RESTORED_SECONDS = 600.0
"""A session without a status whose last request is older came from a backup, and is no ask: a restore starts nothing.
Far above any difference between the clocks of two nodes."""

_TAKEN_UP = (Phase.QUEUED, Phase.STARTING)


def asked(session: ClaudeSession, now: float) -> bool:
    """Whether a worker is asked for (operator). `now` is Unix time; used for sessions without a status only."""
    if session.leaving:
        return False
    if session.status.phase in _TAKEN_UP:
        return True
    last = session.spec.last_request_time
    if not session.status.phase and last is not None and now - last.timestamp() > RESTORED_SECONDS:
        return False
    return is_open(session)


def must_ask(session: ClaudeSession) -> bool:
    """Whether a request that waits has to patch `ask()` (router): there is no worker, and none is asked for."""
    working = session.status.phase in (*_TAKEN_UP, Phase.READY)
    return not (working or session.leaving or is_open(session))


def answered(session: ClaudeSession, generation: int) -> bool:
    """Whether the status is about the ask that made this generation, or about a later one."""
    return session.status.observed_generation >= generation


def ask(now: float) -> dict[str, Any]:
    """The merge patch that asks. `now` is Unix time, to the microsecond, so that it is a change each time."""
    return {"spec": {"desiredState": Desired.RUNNING, "lastRequestTime": timestamp(now)}}


def renewal(now: float) -> dict[str, Any]:
    """The merge patch of a request that still waits. It leaves a person's `Suspended` alone."""
    return {"spec": {"lastRequestTime": timestamp(now)}}


def is_open(session: ClaudeSession) -> bool:
    """Whether there is an ask that no status has answered yet."""
    running = session.spec.desired_state == Desired.RUNNING
    return running and session.metadata.generation != session.status.observed_generation
