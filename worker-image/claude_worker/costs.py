"""What Claude sessions have cost, in US dollars: the CLI counts cumulatively for each, and a fork counts on."""

from __future__ import annotations

from claude_worker.ledger import State

_MOST = 100


def so_far(state: State) -> float:
    """What the CLI will count on from: the cost of the session, or of the one it was forked from."""
    of = state.claude_session_id
    if of not in state.costs and state.fork:
        of = state.fork[0]
    return state.costs.get(of, 0.0)


def note(state: State, total: float) -> None:
    """The CLI now says that the session has cost so much; nothing is said with 0."""
    if total:
        state.costs.pop(state.claude_session_id, None)
        state.costs[state.claude_session_id] = total
        while len(state.costs) > _MOST:
            del state.costs[next(iter(state.costs))]


def unasked(state: State, total: float) -> None:
    """A turn that no request asked for has ended, and the session has cost so much."""
    state.totals.cost_usd += max(0.0, total - so_far(state))
    note(state, total)
