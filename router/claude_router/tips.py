"""The last tips of each conversation, and which conversation a tip leads to. Pure: no I/O.

A tip is the hash of a history that an answer has ended (`claude_worker.history.prefixes`). It leads to a conversation
only while no other has, or had, the same one: two clients whose conversations begin with the same words cannot be told
apart there, so from then on the tip is spoiled, and stays so when one of the two is deleted.

A conversation's tips are one text, the oldest first: `3f…a0 77…1b!`, of which `!` marks the spoiled ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MOST_TIPS = 32
"""What is kept of one conversation; with the marks, that is at most 1087 characters."""

_MOST_SPENT = 16_384
"""Tips without an owner that are remembered as spoiled, for each tenant."""

_TIP = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"(?<!\S)([0-9a-f]{32})(!?)(?!\S)")


def is_tip(text: str) -> bool:
    return _TIP.fullmatch(text) is not None


def entries(tips: str) -> dict[str, bool]:
    """Each tip of the text, and whether it is spoiled. What is no tip is left out, and so are too many."""
    found = {match[1]: bool(match[2]) for match in _ENTRY.finditer(tips)}
    return dict(list(found.items())[-MOST_TIPS:])


def merged(tips: str, more: Mapping[str, bool]) -> str:
    """The text with more tips at its end; of those that it has, a mark is never taken away."""
    found = entries(tips)
    for tip, spoiled in more.items():
        found[tip] = spoiled or found.get(tip, False)
    return " ".join(f"{tip}!" if spoiled else tip for tip, spoiled in list(found.items())[-MOST_TIPS:])


def holds(tips: str, wanted: Mapping[str, bool]) -> bool:
    """Whether the text has all of these, marked where they are."""
    found = entries(tips)
    return all(tip in found and found[tip] >= spoiled for tip, spoiled in wanted.items())


class _Tenant:
    """One tenant's tips. `owners`: the one conversation that a tip leads to, or how many have it when it is spoiled."""

    __slots__ = ("owners", "spent")

    def __init__(self) -> None:
        self.owners: dict[int, str | int] = {}
        self.spent: dict[int, None] = {}

    def add(self, tip: int, name: str, *, spoiled: bool) -> None:
        match self.owners.get(tip):
            case None:
                self.owners[tip] = 1 if spoiled or tip in self.spent else name
            case int(count):
                self.owners[tip] = count + 1
            case str():
                self.owners[tip] = 2

    def spoil(self, tip: int) -> None:
        if isinstance(self.owners[tip], str):
            self.owners[tip] = 1

    def remove(self, tip: int, most: int) -> None:
        owner = self.owners[tip]
        if isinstance(owner, int) and owner > 1:
            self.owners[tip] = owner - 1
            return
        del self.owners[tip]
        # A client may still come back with this history, and then it must not be another's.
        self.spent.pop(tip, None)
        self.spent[tip] = None
        if len(self.spent) > most:
            del self.spent[next(iter(self.spent))]


class TipIndex:
    """The tips of all conversations, by their object names. A conversation's tenant never changes."""

    def __init__(self, *, most_spent: int = _MOST_SPENT) -> None:
        self._most_spent = most_spent
        self._of: dict[str, tuple[str, str]] = {}
        self._tenants: dict[str, _Tenant] = {}

    def put(self, tenant: str, name: str, tips: str) -> None:
        """The conversation's tips are these now."""
        had = self._of.get(name, (tenant, ""))[1]
        if had == tips:
            return
        old, new = _numbers(had), _numbers(tips)
        there = self._tenants.setdefault(tenant, _Tenant())
        for tip, spoiled in new.items():
            if tip not in old:
                there.add(tip, name, spoiled=spoiled)
            elif spoiled:
                there.spoil(tip)
        for tip in old.keys() - new.keys():
            there.remove(tip, self._most_spent)
        if tips:
            self._of[name] = (tenant, tips)
        else:
            self._of.pop(name, None)

    def drop(self, name: str) -> None:
        """The conversation is no more."""
        if known := self._of.get(name):
            self.put(known[0], name, "")

    def tips(self, name: str) -> str:
        """The conversation's tips."""
        return self._of.get(name, ("", ""))[1]

    def known(self, tenant: str, tip: str) -> bool:
        """Whether any conversation has, or had, the tip."""
        there = self._tenants.get(tenant)
        number = int(tip, 16)
        return there is not None and (number in there.owners or number in there.spent)

    def find(self, tenant: str, tips: Sequence[str]) -> str:
        """The name of the conversation that the longest known of these histories leads to; empty when to none.

        `tips` are in the order of the history. A spoiled one hides the shorter ones before it.
        """
        there = self._tenants.get(tenant)
        if there is None:
            return ""
        for tip in reversed(tips):
            number = int(tip, 16)
            owner = there.owners.get(number)
            if isinstance(owner, str):
                return owner
            if owner is not None or number in there.spent:
                return ""
        return ""


def _numbers(tips: str) -> dict[int, bool]:
    """As `entries`; numbers, because there may be hundreds of thousands of them."""
    return {int(tip, 16): spoiled for tip, spoiled in entries(tips).items()}
