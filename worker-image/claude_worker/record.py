"""What a turn that has ended leaves in the ledger: its answer as a node, and what it used."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from claude_worker.history import Asked, Node, TurnState
from claude_worker.ledger import Ledger
from claude_worker.openai.request import CallFunction, CallPart, Message
from claude_worker.prefixes import cut_text, extend
from claude_worker.translate import Translator
from claude_worker.turn import Turn

_MOST_CUT = 64 * 1024
"""Characters of an answer that are kept to know it again by its beginning."""


def answer_message(translator: Translator) -> Message:
    """The answer as the client has it."""
    calls = [CallPart(c.id, "function", CallFunction(c.name, c.arguments)) for c in translator.calls]
    return Message("assistant", translator.text, tool_calls=calls or None)


def answer_prefix(asked: str, translator: Translator) -> str:
    """The history that ends with the answer."""
    return extend(asked, [answer_message(translator)])


def answer_node(session: str, asked: str, translator: Translator) -> Node:
    """The place in the CLI's memory where a whole answer to the history `asked` ends."""
    calls = tuple(c.id for c in translator.calls) if translator.parked else ()
    return Node(answer_prefix(asked, translator), session, translator.last_uuid, calls)


def ended(ledger: Ledger, asked: Asked, turn: Turn) -> list[list[Any]]:
    """Note the end of a turn in the ledger's memory; returns the lines for its file."""
    state, translator = ledger.state, turn.translator
    totals, usage = state.totals, translator.usage
    totals.input_tokens += usage.prompt
    totals.output_tokens += usage.completion
    totals.cached_tokens += usage.cached
    totals.cost_usd += translator.cost_usd
    state.last_active = time.time()
    if turn.started:
        state.turns += 1
    outcome = _outcome(turn)
    node = _node(state.claude_session_id, asked, turn, outcome)
    if node is not None:
        state.tip, state.clean = node.prefix, True
    return ledger.end(asked, outcome, node)


def _outcome(turn: Turn) -> TurnState:
    if turn.translator.parked or (turn.translator.finished and turn.translator.error is None and not turn.error):
        return "done"
    return "failed" if turn.translator.error is not None else "interrupted"


def _node(session: str, asked: Asked, turn: Turn, outcome: TurnState) -> Node | None:
    translator = turn.translator
    if not turn.started or not translator.last_uuid or outcome == "failed":
        return None
    if outcome == "interrupted" and (not translator.text.strip() or translator.calls):
        return None
    node = answer_node(session, asked.prefix, translator)
    cut = outcome == "interrupted" or turn.unread
    return msgspec.structs.replace(node, cut=cut_text(translator.text)[:_MOST_CUT]) if cut else node
