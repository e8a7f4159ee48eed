"""Which conversation of the store a request without an id continues (see `claude_router.tips`)."""

from __future__ import annotations

from collections.abc import Sequence

from claude_router.local.store import Store
from claude_router.sessions import ConversationKey
from claude_router.tips import TipIndex, entries, merged


class LocalTips:
    """The tips in the store's records, and the index over them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = TipIndex()
        for name, record in store.records.items():
            self._index.put(record.tenant, name, record.tips)

    def note(self, key: ConversationKey, tip: str) -> bool:
        """An answer of the conversation ended with this tip: whether that is new, and the store has to be flushed."""
        record = self._store.records.get(key.name)
        if record is None or tip in entries(record.tips):
            return False
        spoiled = self._index.known(key.tenant, tip)
        if other := self._index.find(key.tenant, [tip]):
            self._put(other, tip, spoiled=True)
        self._put(key.name, tip, spoiled=spoiled)
        return True

    def _put(self, name: str, tip: str, *, spoiled: bool) -> None:
        record = self._store.records[name]
        self._store.note_tips(name, merged(record.tips, {tip: spoiled}))
        self._index.put(record.tenant, name, record.tips)

    def find(self, tenant: str, tips: Sequence[str]) -> ConversationKey | None:
        """See `claude_router.sessions.Sessions.find_by_tip`."""
        record = self._store.records.get(self._index.find(tenant, tips))
        return record.key if record else None

    def forget(self, name: str) -> None:
        """The conversation is being purged."""
        self._index.drop(name)
