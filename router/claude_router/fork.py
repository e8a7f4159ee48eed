"""A new conversation from a point of an old one: memory, ledger and workspace go from one worker to the other.

Nothing is kept in between: the old one's archive is the new one's upload. Until it is through, no turn of the old one
runs, and a failure leaves nothing of the new one behind.
"""

from __future__ import annotations

import contextlib
import logging
import uuid

import msgspec

from claude_router import errors
from claude_router.errands import Errand, Errands, Upload
from claude_router.identity import checked
from claude_router.limits import Limits
from claude_router.messages import Transcript, messages
from claude_router.sessions import Beginning, ConversationKey, SessionFailed, Sessions, SessionView, Unreachable
from claude_router.teams import TeamPolicy
from claude_router.views import ForkRequest, MessageView
from claude_worker.openai.errors import ApiError, bad_request

log = logging.getLogger(__name__)

_TRANSCRIPT_MAX = 256 * 1024 * 1024
_CLIENT_TOOL = "mcp__client__"


async def read_messages(errands: Errands, key: ConversationKey) -> list[MessageView]:
    """The conversation so far. Raises ApiError."""
    async with errands.run(Errand(key, "GET", "/transcript", patience=errands.queue_timeout(key))) as response:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > _TRANSCRIPT_MAX:
                raise errors.transcript_too_large(key.name)
        try:
            return messages(msgspec.json.decode(body, type=Transcript).messages)
        except msgspec.DecodeError as error:
            raise errors.worker_bad_answer(key.name, response.status) from error


class Forks:
    """Makes them."""

    def __init__(self, sessions: Sessions, errands: Errands, limits: Limits) -> None:
        self._limits = limits
        self._sessions = sessions
        self._errands = errands
        self._making: set[ConversationKey] = set()

    async def fork(self, old: SessionView, wanted: ForkRequest, policy: TeamPolicy) -> SessionView:
        """The new conversation; `policy` is of the old one's team. Raises ApiError; then there is none."""
        # Its workspace is a copy of the old one's: nothing is cloned into it.
        new = ConversationKey(
            old.key.tenant, checked(wanted.id, "id") or f"conv_{uuid.uuid4().hex}", begins=Beginning()
        )
        if new in self._making or new == old.key or await self._sessions.get(new) is not None:
            raise errors.conversation_exists(new.id)
        self._making.add(new)
        try:
            with self._limits.beginning(policy, new.name, self._sessions.count):
                await self._refuse_without_room()
                at = await self._point(old.key, wanted.at) if wanted.at is not None else ""
                await self._copy(old.key, new, at)
        finally:
            self._making.discard(new)
        found = await self._sessions.get(new)
        if found is None:
            raise errors.conversation_not_found(new.id)
        return found

    async def _refuse_without_room(self) -> None:
        stats = await self._sessions.stats()
        if 0 < stats.size < 2:
            raise errors.pool_too_small()

    async def _point(self, key: ConversationKey, at: int | str) -> str:
        """The id of the message to go on from."""
        found = await read_messages(self._errands, key)
        if isinstance(at, int):
            message = found[at] if 0 <= at < len(found) else None
        else:
            message = next((m for m in found if m.id == at and m.role == "assistant"), None)
        if message is None:
            why = f"The conversation has no message {at!r} of the assistant; it has {len(found)} in all."
            raise bad_request(why, code="message_not_found", param="at")
        if message.role != "assistant" or any(not c.function.name.startswith(_CLIENT_TOOL) for c in message.tool_calls):
            why = f"Message {at!r} is no answer of the assistant, or one in which it goes on to use its own tools."
            raise bad_request(why, code="invalid_fork_point", param="at")
        return message.id

    async def _copy(self, old: ConversationKey, new: ConversationKey, at: str) -> None:
        # The old one's worker first: while it exports it is busy, so making room for the new one cannot take it away.
        patience = self._errands.queue_timeout(old)
        async with self._errands.run(Errand(old, "GET", "/export", patience=patience)) as archive:
            upload = Upload(archive.content.iter_any())
            errand = Errand(new, "PUT", "/import", {"at": at} if at else None, upload)
            try:
                async with self._errands.run(errand):
                    pass
            except BaseException as error:
                await self._remove(new, error)
                raise

    async def _remove(self, new: ConversationKey, why: BaseException) -> None:
        """What was begun of it, unless it is somebody's by now."""
        found = await self._sessions.get(new)
        if found is None or found.turns or found.busy or (isinstance(why, ApiError) and why.status == 409):
            return
        log.warning("a fork failed and is removed", extra={"fields": {"conversation": new.name, "reason": str(why)}})
        with contextlib.suppress(Unreachable, SessionFailed, OSError):
            await self._sessions.purge(new)
