"""What a request means to the conversation's memory: a pure function of the request and of what is known.

OpenAI clients send the whole history each time; Claude Code keeps its own. The laws:

- what the CLI already has in its memory is never sent to it again;
- what the user said last always is;
- a client's side task (a title, a summary) never enters the conversation.

Rules: `Continue` (known history, or none sent: only the new messages go to the CLI) and `Aside` (answered by a process
of its own). A history that the ledger does not know, on a conversation without turns, is handed over once as context.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

from claude_worker.openai.request import ChatRequest, Message

_SIDE_TASK = re.compile(
    r"\b(?:title|summar\w+|topic|name)\b[^.\n]{0,40}\bgenerat|\bgenerat\w*\b[^.\n]{0,60}\b(?:title|summar|topic)",
    re.IGNORECASE,
)
_SIDE_TASK_HEAD = 400
EMPTY = "0" * 32
"""The hash of no messages at all."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a conversation's worker knows of it.

    `prefixes` holds the hash of every message prefix in the CLI's memory, `tip` the latest; `established` tells that a
    turn has been started, with `had_tools` and `system` as that first request had them.
    """

    prefixes: Container[str]
    tip: str = EMPTY
    established: bool = False
    had_tools: bool = False
    system: str = ""


@dataclass(frozen=True, slots=True)
class Continue:
    """Send `new` to the conversation; `context` is history that the CLI lacks and gets once, in front of it.

    `base` is the hash of the prefix that `new` follows.
    """

    new: tuple[Message, ...]
    base: str
    context: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Aside:
    """Answer apart from the conversation: `system` and `messages` are all that the model sees."""

    system: str
    messages: tuple[Message, ...]


Rule = Continue | Aside


def normalise(message: Message) -> bytes:
    """A message as it is hashed: role and text without white space, since clients trim and re-join what they echo.

    Images count by their address or data.
    """
    images = [p.image_url.url for p in message.content if p.image_url] if isinstance(message.content, list) else []
    text = "".join(message.text().split())
    return "\x00".join([message.role, text, *images]).encode("utf-8", "surrogatepass")


def extend(prefix: str, messages: Sequence[Message]) -> str:
    """The hash of `prefix` followed by `messages`."""
    for message in messages:
        digest = hashlib.blake2b(normalise(message), key=bytes.fromhex(prefix), digest_size=16)
        prefix = digest.hexdigest()
    return prefix


def is_side_task(request: ChatRequest) -> bool:
    """A request that by its own words generates a title or the like: no tools, and a system prompt that says so."""
    return not request.tools and bool(_SIDE_TASK.search(request.system_text()[:_SIDE_TASK_HEAD]))


def _known_length(turns: Sequence[Message], prefixes: Container[str]) -> int:
    """How many of the first messages form the longest known prefix."""
    longest, current = 0, EMPTY
    for i, message in enumerate(turns, start=1):
        current = extend(current, [message])
        if current in prefixes:
            longest = i
    return longest


def _trailing_user(turns: Sequence[Message]) -> int:
    """Index of the first message after the last one that is not the user's."""
    start = len(turns)
    while start > 0 and turns[start - 1].role == "user":
        start -= 1
    return start


def classify(request: ChatRequest, known: Known, *, client_session: bool) -> Rule:
    """Decide what `request` means.

    `client_session`: the conversation id came from a client's own session header, so the client may run its side tasks
    under the same id (opencode's title request does, at the same moment as the first turn).
    """
    turns = request.turns()
    length = _known_length(turns, known.prefixes)
    continues = 0 < length < len(turns)
    if not continues and _is_aside(request, known, client_session=client_session):
        return Aside(request.system_text(), tuple(turns))
    start = max(length if continues else 0, _trailing_user(turns))
    context = () if known.established else tuple(turns[:start])
    base = extend(EMPTY, turns[:start]) if start else known.tip
    return Continue(tuple(turns[start:]), base, context)


def _is_aside(request: ChatRequest, known: Known, *, client_session: bool) -> bool:
    if request.tools or not request.system_text():
        return False
    if known.established and known.had_tools:
        # The conversation's own client always sends its tools; this is another of its jobs.
        return request.system_text() != known.system
    return client_session and is_side_task(request)
