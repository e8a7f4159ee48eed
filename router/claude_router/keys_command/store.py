"""Where records of keys are kept: what the command asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from claude_crds.apikeys import KeyRecord


class KeysError(Exception):
    """Why it could not be done, in one line that is safe to print."""


@dataclass(frozen=True, slots=True)
class Kept:
    """All records by id, and the names of entries that are none."""

    records: dict[str, KeyRecord]
    odd: tuple[str, ...] = ()


class KeyStore(Protocol):
    """Changes of one key never undo another's, however many are made at once. All raise KeysError."""

    async def read(self) -> Kept: ...

    async def check_team(self, team: str) -> None:
        """Raises KeysError if there is no such team."""

    async def add(self, record: KeyRecord) -> None:
        """Raises KeysError if its id is taken."""

    async def remove(self, key_id: str) -> None:
        """Raises KeysError if there is no such key."""


def unknown(key_id: str) -> KeysError:
    return KeysError(f"there is no key {key_id}: `keys list` shows those that there are")


def taken(key_id: str) -> KeysError:
    return KeysError(f"the id {key_id} is taken by another key: try again")
