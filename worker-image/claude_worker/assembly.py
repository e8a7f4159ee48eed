"""Puts the one kind of messages together that the worker knows, from what other APIs call theirs.

An answer may have been told in several items or blocks; what a client echoes of it is one assistant message again, so
that the history is the same whichever API it is told in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from claude_worker.openai.errors import ApiError
from claude_worker.openai.messages import (
    CallFunction,
    CallPart,
    FileData,
    ImageUrl,
    Message,
    Part,
    check_last,
    check_messages,
)

_PLACE = re.compile(r"messages\[(\d+)\]")


def text_part(text: str) -> Part:
    """A text part."""
    return Part("text", text=text)


def image_part(url: str) -> Part:
    """An image part, by address or data URI."""
    return Part("image_url", image_url=ImageUrl(url))


def file_part(name: str | None, data: str) -> Part:
    """A file part, by base64 or data URI."""
    return Part("file", file=FileData(filename=name or "file", file_data=data))


def call_part(call_id: str, name: str, arguments: str) -> CallPart:
    """A call in an assistant message."""
    return CallPart(call_id, "function", CallFunction(name, arguments))


class Assembly:
    """Messages in the making; `name` is what the client calls their list, `where` the place of one, for errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._messages: list[Message] = []
        self._places: list[str] = []

    def add(self, role: str, content: str | list[Part], where: str) -> None:
        """A message of the user, or a system message."""
        self._append(Message(role, content), where)

    def assistant(self, text: str, calls: Sequence[CallPart], where: str) -> None:
        """Some of what the assistant said; joins what it said directly before."""
        before = self._messages[-1] if self._messages else None
        if before is None or before.role != "assistant":
            self._append(Message("assistant", text or None, tool_calls=list(calls) or None), where)
            return
        said = "\n\n".join(t for t in (before.text(), text) if t)
        called = [*(before.tool_calls or ()), *calls]
        self._messages[-1] = Message("assistant", said or None, tool_calls=called or None)

    def tool(self, call_id: str, content: str | list[Part], where: str) -> None:
        """The result of a call."""
        self._append(Message("tool", content, tool_call_id=call_id), where)

    def _append(self, message: Message, where: str) -> None:
        self._messages.append(message)
        self._places.append(where)

    def messages(self, *, answers_earlier: bool = False) -> list[Message]:
        """The messages, checked. Raises ApiError (400) with the client's own names.

        `answers_earlier`: the first messages may answer calls of an answer that the client does not repeat.
        """
        messages = self._messages
        try:
            check_messages(messages)
            if not (answers_earlier and messages[-1].role == "tool" and all(m.role != "assistant" for m in messages)):
                check_last(messages)
        except ApiError as error:
            error.message = self._rename(error.message)
            error.args = (error.message,)
            error.param = error.param and self._rename(error.param)
            raise
        empty = [i for i, m in enumerate(messages) if m.role == "assistant" and m.content is None and not m.tool_calls]
        for i in empty:  # only thoughts, which are no part of the history
            messages[i] = msgspec.structs.replace(messages[i], content="")
        return messages

    def _rename(self, text: str) -> str:
        def place(found: re.Match[str]) -> str:
            index = int(found[1])
            return self._places[index] if index < len(self._places) else found[0]

        text = _PLACE.sub(place, text)
        return self._name if text == "messages" else text.replace("'messages'", f"'{self._name}'")
