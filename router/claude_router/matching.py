"""A request without any conversation id goes to the conversation whose history it continues, if there is exactly one.

Clients send the whole history each time, so its hash after an answer names the conversation that gave it: the worker
says this hash, the tip, at the end of each answer. `claude_router.tips` says when a tip leads to a conversation.
"""

from __future__ import annotations

from claude_router.sessions import ConversationKey, Sessions
from claude_router.tips import is_tip
from claude_worker.openai.request import ChatRequest
from claude_worker.prefixes import prefixes, tidy

_MOST_MESSAGES = 10_000
"""A longer history is not hashed here, where other clients' streams would wait meanwhile (10,000 take 30 ms)."""


class Matching:
    """For requests whose id would be generated; each is looked up before its turn and noted after it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def find(self, tenant: str, request: ChatRequest) -> ConversationKey | None:
        """The conversation that the request continues; None: it begins one."""
        answered = histories(request)
        return self._sessions.find_by_tip(tenant, answered) if answered else None

    async def knows(self, key: ConversationKey) -> bool:
        """Whether there is such a conversation."""
        return await self._sessions.get(key) is not None

    def note(self, key: ConversationKey, tip: str) -> None:
        """The answer that the conversation has just given ended with this tip (empty: it said none)."""
        if is_tip(tip):
            self._sessions.note_tip(key, tip)


def histories(request: ChatRequest) -> list[str]:
    """The hashes of the histories that an answer, or a tool's result, ends within the request, the shortest first."""
    if len(request.messages) > _MOST_MESSAGES or not any(m.role == "assistant" for m in request.messages):
        return []
    turns = tidy(request.turns())
    # The last message is what is being asked, whatever its role.
    return [h for m, h in zip(turns[:-1], prefixes(turns), strict=False) if m.role in ("assistant", "tool")]
