"""Which models a request names, read without building what else is in it: many small things would take much memory."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Literal

import msgspec

from claude_router.gateway import errors

_LONGEST_NAME = 200
_MOST_TOOLS = 100_000
_MOST_PLACES = 10_000
_LARGEST_SOUGHT = 16 * 1024 * 1024
"""In bytes: the search for a key that is not the first of its name reads the text some ten times."""
_ABSENT = msgspec.Raw(b"")

_Key = Literal["model", "tools"]


class _Tool(msgspec.Struct):
    model: str | None = None


class _Asked(msgspec.Struct):
    model: str
    tools: msgspec.Raw = _ABSENT


class _Keys(msgspec.Struct):
    model: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT


_ASKED = msgspec.json.Decoder(_Asked)
_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL = msgspec.json.Decoder(_Tool)
_KEYS = msgspec.json.Decoder(_Keys)
_BROKEN = (msgspec.MsgspecError, ValueError, RecursionError)


def _spelled(word: str) -> re.Pattern[bytes]:
    """As a string of JSON, each letter plain or escaped."""
    letters = (rf"(?:{letter}|\\u(?i:{ord(letter):04x}))" for letter in word)
    return re.compile(f'"{"".join(letters)}"'.encode())


_SPELLED: dict[_Key, re.Pattern[bytes]] = {"model": _spelled("model"), "tools": _spelled("tools")}


def models_in(body: bytes) -> list[str]:
    """The models that the request names: its own first, then those of tools that bring one. Raises ApiError (400)."""
    try:
        asked = _ASKED.decode(body)
        models = [asked.model, *(tool.model for raw in _tools(asked.tools) if (tool := _TOOL.decode(raw)).model)]
    except _BROKEN as error:
        raise errors.bad_body(str(error)[:200]) from error
    if max(map(len, models)) > _LONGEST_NAME:
        raise errors.bad_body(f"no model has a name of more than {_LONGEST_NAME} characters")
    return models


def refuse_ambiguous(body: bytes) -> None:
    """Raises ApiError (400) if the request names its model or tools twice: which of them counts is the reader's choice.

    The same of a tool's model. `body` is JSON that `models_in` has read.
    """
    once = _once(body, "model") and _once(body, "tools")
    if not (once and all(_once(bytes(tool), "model") for tool in _tools(_ASKED.decode(body).tools))):
        raise errors.bad_body("it names its model or its tools twice")


def _tools(tools: msgspec.Raw) -> list[msgspec.Raw]:
    """Those in which a model may be named. Raises ApiError (400) and what decoding does."""
    text = bytes(tools)
    if not _SPELLED["model"].search(text):
        return []
    if text.count(b"{") > _MOST_TOOLS:
        raise errors.bad_body(f"its tools have more than {_MOST_TOOLS} parts")
    return [tool for tool in _TOOLS.decode(text) if _SPELLED["model"].search(bytes(tool))]


def _once(text: bytes, key: _Key) -> bool:
    """Whether an object has this key once at the most; deeper ones do not count. Raises ApiError (400).

    A key is gone when the last place that spells it, of those that are the object's own, is spelled otherwise; unless
    there is another.
    """
    places = [found.start() + 1 for found in _SPELLED[key].finditer(text)]
    if len(places) <= 1:
        return True
    if len(places) > _MOST_PLACES:
        raise errors.bad_body(f"it has the word {key!r} more than {_MOST_PLACES} times")

    def gone(without: slice) -> bool:
        changed = bytearray(text)
        for place in places[without]:
            changed[place] = ord("_")
        return getattr(_KEYS.decode(changed), key) is _ABSENT

    if gone(slice(1)):  # it is the first, as in all that Claude Code sends, or there is none
        return True
    if len(text) > _LARGEST_SOUGHT:
        raise errors.bad_body(f"it is large, and its {key!r} does not come first")
    last = bisect_left(range(len(places) + 1), True, key=lambda count: gone(slice(count))) - 1
    return gone(slice(last, last + 1))
