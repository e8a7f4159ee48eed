"""What a request means to the conversation's memory: a pure function of the request and of what is known.

OpenAI clients send the whole history each time; Claude Code keeps its own. The laws:

- what the model is sent equals the history that the client sent;
- no turn runs twice, and nothing is appended to the wrong branch;
- a client that goes back to an earlier branch finds it again;
- a client's side task (a title, a summary) never enters the conversation.

A history is named by a hash that grows message by message (`extend`). A `Node` is a place in the CLI's memory that ends
such a history, and from which it can go on: a client's history is walked along the nodes, and what follows the last one
is new. A client that sends no history at all goes on where the conversation is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.request import ChatRequest, Message
from claude_worker.prefixes import EMPTY, cut_text, extend, step, tidy

_SIDE_TASK = re.compile(
    r"\b(?:title|summar\w+|topic|name)\b[^.\n]{0,40}\bgenerat|\bgenerat\w*\b[^.\n]{0,60}\b(?:title|summar|topic)"
    r"|\bsummar\w+ (?:agent|assistant)\b",
    re.IGNORECASE,
)
_SIDE_TASK_HEAD = 400

Kind = Literal["continued", "edited", "regenerated", "rewritten"]
TurnState = Literal["running", "done", "interrupted", "failed", "lost"]


class Node(msgspec.Struct, frozen=True):
    """A place in the CLI's memory: the message `uuid` of the Claude session `session` ends the history `prefix`.

    `calls`: ids of the client's tools that the message calls; their results come next. `cut`: the text, normalised, of
    an answer of which a client may have seen less: it was cut off, or it ended when nobody read it any more.
    """

    prefix: str
    session: str
    uuid: str
    calls: tuple[str, ...] = ()
    cut: str = ""


ROOT = Node(EMPTY, "", "")


class Asked(msgspec.Struct):
    """A turn: the history `prefix` that it answers, the node it began at, and what became of it.

    `watched`: a client reads it now; `delivered`: one has read it to its end. `answer` is the history that it ended.
    """

    prefix: str
    base: str
    uuid: str
    state: TurnState = "running"
    watched: bool = False
    delivered: bool = False
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What a conversation's worker knows of it.

    `tip` is the history in the CLI's memory now, `clean` that it is exactly a node's; `full` that clients have sent
    their history before. `cuts` are nodes of answers of which a client may have seen less, by what they answered.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    cuts: Mapping[str, Node] = field(default_factory=dict)
    last: Asked | None = None
    tip: str = EMPTY
    clean: bool = True
    full: bool = False
    established: bool = False
    had_tools: bool = False
    system: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    """What the request's headers say: a client's own session id (it may run side tasks under it), an SDK's retry, and
    whether the messages are the whole history or only the last of it ("": to be found out)."""

    client_session: bool = False
    retry: bool = False
    sends: Literal["", "full", "last"] = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A turn: at `base`, send `new`; `context` is history that no node holds, told once in front of it.

    `asked` is the whole history that the turn answers; `exact` that the CLI's memory must end exactly at `base`.
    """

    kind: Kind
    base: str
    new: tuple[Message, ...]
    asked: str
    context: tuple[Message, ...] = ()
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same turn again: attach to it, or give its answer once more."""

    turn: Asked


@dataclass(frozen=True, slots=True)
class Aside:
    """Answer apart from the conversation: `system` and `messages` are all that the model sees."""

    system: str
    messages: tuple[Message, ...]


Rule = Run | Repeat | Aside


# -- the decision ------------------------------------------------------------------------------------------------------


def is_side_task(request: ChatRequest) -> bool:
    """A request that by its own words generates a title or the like: no tools, and a system prompt that says so."""
    return not request.tools and bool(_SIDE_TASK.search(request.system_text()[:_SIDE_TASK_HEAD]))


def has_history(turns: Sequence[Message]) -> bool:
    """Whether the client sent more than its newest messages."""
    return any(m.role in ("assistant", "tool") for m in turns)


def classify(request: ChatRequest, known: Known, hints: Hints = Hints()) -> Rule:
    """Decide what `request` means. Raises ApiError (400, 404) when its tool results or its `previous` fit nowhere."""
    turns = tidy(request.turns())
    if request.previous is not None:
        return _run_at(_previous(request.previous, known), turns, [], known, hints)
    length, chain = _walk(turns, known)
    if not length and _is_aside(request, known, hints):
        return Aside(request.system_text(), tuple(turns))
    if not _sends_all(request, turns, known, hints):
        return _continue(turns, known, hints)
    new = turns[length:]
    start = _trailing(new)
    base = chain[length - 1] if length else EMPTY
    # A message of an assistant that no node holds: the client has rewritten its history, or brings a foreign one.
    return _run_at(base, new[start:], new[:start], known, hints)


def _walk(turns: Sequence[Message], known: Known) -> tuple[int, list[str]]:
    """How many of the first messages the longest known history has, and the hash after each message."""
    longest, current = 0, EMPTY
    nodes, cuts = known.nodes, known.cuts
    chain: list[str] = []
    for i, message in enumerate(turns, start=1):
        before, current = current, step(current, message)
        if cuts and message.role == "assistant" and current not in nodes and (cut := cuts.get(before)):
            seen = cut_text(message.text())
            if seen and not message.tool_calls and cut.cut.startswith(seen):
                current = cut.prefix
        if current in nodes:
            longest = i
        chain.append(current)
    return longest, chain


def _trailing(messages: Sequence[Message]) -> int:
    """Index of the first message that is neither an assistant's nor followed by one, nor a result of its calls."""
    start = _after_assistant(messages)
    while 0 < start < len(messages) and messages[start].role == "tool":
        start += 1
    return start


def _after_assistant(messages: Sequence[Message]) -> int:
    start = len(messages)
    while start > 0 and messages[start - 1].role != "assistant":
        start -= 1
    return start


def _sends_all(request: ChatRequest, turns: Sequence[Message], known: Known, hints: Hints) -> bool:
    if hints.sends:
        return hints.sends == "full"
    if has_history(turns):
        return True
    # One message alone: a person's next one, or the edited first one of a client that always sends its whole history.
    agent = hints.client_session or bool(request.tools) or (known.full and bool(request.system_text()))
    return agent and known.established


def _continue(turns: Sequence[Message], known: Known, hints: Hints) -> Rule:
    new = turns[_after_assistant(turns) :]
    last = known.last
    if last is not None and extend(last.base, new) == last.prefix and _is_repeat(last, hints, unwatched=True):
        return Repeat(last)
    return Run("continued", known.tip, tuple(new), extend(known.tip, new), exact=False)


def _run_at(base: str, new: Sequence[Message], context: Sequence[Message], known: Known, hints: Hints) -> Run | Repeat:
    if not context:
        _check_results(known.nodes.get(base, ROOT), new)
    asked = extend(base, [*context, *new])
    before = known.asked.get(asked)
    if before is not None and _is_repeat(before, hints, unwatched=False):
        return Repeat(before)
    there = base == known.tip and known.clean
    kind: Kind = "continued" if there or (base == EMPTY and not known.established) else "edited"
    if context:
        kind = "rewritten"
    elif before is not None:
        kind = "regenerated"
    return Run(kind, base, tuple(new), asked, tuple(context))


def _is_repeat(turn: Asked, hints: Hints, *, unwatched: bool) -> bool:
    """Whether a request for the same turn means that turn. `unwatched`: not while another client still reads it."""
    if turn.state == "running":
        return hints.retry or not turn.watched or not unwatched
    if turn.state == "lost":
        return hints.retry
    return turn.state == "done" and (hints.retry or not turn.delivered)


def _check_results(node: Node, new: Sequence[Message]) -> None:
    given = [m.tool_call_id or "" for m in new if m.role == "tool"]
    unknown = [i for i in given if i not in node.calls]
    if unknown:
        raise bad_request(f"No call of a tool with the id {unknown[0]!r} waits for a result here.",
                          code="unknown_tool_call_id", param="messages")  # fmt: skip
    missing = [i for i in node.calls if i not in given]
    if given and missing:
        raise bad_request(f"The call {missing[0]!r} has no result: every call of the message needs one.",
                          code="missing_tool_result", param="messages")  # fmt: skip


def _previous(turn: str, known: Known) -> str:
    """The history that the turn with this id ended."""
    for asked in known.asked.values():
        if asked.uuid.replace("-", "") == turn and asked.answer:
            return asked.answer
    raise ApiError(404, "The previous response is not known here (any more).", code="previous_response_not_found",
                   param="previous_response_id")  # fmt: skip


def _is_aside(request: ChatRequest, known: Known, hints: Hints) -> bool:
    if request.tools or not request.system_text():
        return False
    if known.established and known.had_tools:
        # The conversation's own client always sends its tools; this is another of its jobs.
        return request.system_text() != known.system
    return hints.client_session and is_side_task(request)
