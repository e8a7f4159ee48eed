"""The copy behind a reflector, without any I/O: objects by name and by index, and whoever wants to hear of changes.

A write's own answer can be put in ahead of the watch (`learn`), so that a party which creates and then counts does not
count too few. This rests on resource versions of one kind being numbers that only grow, which Kubernetes promises since
1.35 and has always kept; where they are no numbers, `learn` does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, ValuesView
from typing import Generic, Literal, TypeAlias, TypeVar

from claude_crds.views import Object

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

Change: TypeAlias = Literal["added", "modified", "deleted"]
Listener: TypeAlias = Callable[[Change, T | None, T | None], None]
"""Called with (change, old, new) after the copy has changed: old is None when added, new is None when deleted."""
Predicate: TypeAlias = Callable[[T | None], bool]
"""Of the object, or of None while there is none."""
Index: TypeAlias = Callable[[T], Iterable[str]]
"""The keys that an object is found under."""


class Cache(Generic[T]):
    """See the module. All methods belong to one event loop."""

    def __init__(self, indexes: Mapping[str, Index[T]]) -> None:
        self.position = ""
        """The resource version up to which the copy is complete; empty before the first LIST."""
        self._objects: dict[str, T] = {}
        self._indexes = indexes
        self._found: dict[str, dict[str, dict[str, T]]] = {index: {} for index in indexes}
        self._ahead: dict[str, int] = {}
        self._listeners: list[Listener[T]] = []
        self._waiters: dict[str, dict[asyncio.Future[T | None], Predicate[T]]] = {}

    def get(self, name: str) -> T | None:
        return self._objects.get(name)

    def items(self) -> ValuesView[T]:
        return self._objects.values()

    def by(self, index: str, key: str) -> ValuesView[T]:
        """The objects that the index finds under the key. A live view: copy it before anything is awaited."""
        return self._found[index].get(key, {}).values()

    def listen(self, listener: Listener[T]) -> None:
        self._listeners.append(listener)

    async def wait_for(self, name: str, predicate: Predicate[T], deadline: float) -> T | None:
        """The object as soon as the predicate is true of it, at once if it is. Raises TimeoutError past `deadline`.

        The deadline is on the event loop's clock. Nothing is true before the first LIST.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | None] = loop.create_future()
        waiters = self._waiters.setdefault(name, {})
        waiters[future] = predicate
        try:
            if self.position:
                self._ask(name, future, predicate)
            async with asyncio.timeout_at(deadline):
                return await future
        finally:
            del waiters[future]
            if not waiters and self._waiters.get(name) is waiters:
                del self._waiters[name]

    def apply(self, new: T) -> None:
        """The watch says: added or modified."""
        self.position = new.metadata.resource_version
        if self._expects_newer(new):
            return
        self._tell(self._put(new))

    def remove(self, gone: T) -> None:
        """The watch says: deleted. `gone` has the resource version of the deletion."""
        self.position = gone.metadata.resource_version
        if self._expects_newer(gone):
            return
        self._tell(self._drop(gone.name))

    def leave_out(self, name: str, resource_version: str) -> None:
        """The watch says something about an object that cannot be read: it is as if it were not there."""
        self.position = resource_version
        self._tell(self._drop(name))

    def replace(self, listed: Iterable[T], resource_version: str) -> None:
        """The LIST says: these, and no others."""
        self.position = resource_version
        self._ahead = {name: version for name, version in self._ahead.items() if version > _number(resource_version)}
        objects = {o.name: o for o in listed if o.name not in self._ahead}
        changes = []
        for name in [n for n in self._objects if n not in objects and n not in self._ahead]:
            changes += self._drop(name)
        for new in objects.values():
            changes += self._put(new)
        self._tell(changes)
        for name in tuple(self._waiters):
            self._wake(name)

    def learn(self, new: T) -> None:
        """The answer to a write of our own says so: heard before the watch says the same.

        Older news than the copy's are ignored: where the watch has passed that version, it has told what became of it.
        """
        version = _number(new.metadata.resource_version)
        known = self._objects.get(new.name)
        newest = max(_number(self.position), _number(known.metadata.resource_version) if known else 0)
        if self.position and version > newest:
            self._ahead[new.name] = version
            self._tell(self._put(new))

    def _expects_newer(self, event: T) -> bool:
        """Whether this is older than what a write has taught us about the name."""
        ahead = self._ahead.get(event.name)
        if ahead is None:
            return False
        if _number(event.metadata.resource_version) < ahead:
            return True
        del self._ahead[event.name]
        return False

    def _put(self, new: T) -> list[tuple[Change, T | None, T | None]]:
        old = self._objects.get(new.name)
        if old is None:
            self._store(new)
            return [("added", None, new)]
        if old.metadata.uid != new.metadata.uid:
            dropped = self._drop(new.name)
            self._store(new)
            return [*dropped, ("added", None, new)]
        if old.metadata.resource_version == new.metadata.resource_version:
            return []
        self._unindex(old)
        self._store(new)
        return [("modified", old, new)]

    def _drop(self, name: str) -> list[tuple[Change, T | None, T | None]]:
        old = self._objects.pop(name, None)
        if old is None:
            return []
        self._unindex(old)
        return [("deleted", old, None)]

    def _store(self, new: T) -> None:
        self._objects[new.name] = new
        for index, keys in self._indexes.items():
            for key in keys(new):
                self._found[index].setdefault(key, {})[new.name] = new

    def _unindex(self, old: T) -> None:
        for index, keys in self._indexes.items():
            found = self._found[index]
            for key in keys(old):
                if key in found:
                    found[key].pop(old.name, None)
                    if not found[key]:
                        del found[key]

    def _tell(self, changes: Iterable[tuple[Change, T | None, T | None]]) -> None:
        for change, old, new in changes:
            for listener in self._listeners:
                try:
                    listener(change, old, new)
                except Exception:
                    log.exception("a listener failed")
            about = new or old
            assert about is not None
            self._wake(about.name)

    def _wake(self, name: str) -> None:
        for future, predicate in tuple(self._waiters.get(name, {}).items()):
            self._ask(name, future, predicate)

    def _ask(self, name: str, future: asyncio.Future[T | None], predicate: Predicate[T]) -> None:
        if future.done():
            return
        new = self._objects.get(name)
        try:
            if predicate(new):
                future.set_result(new)
        except Exception as error:
            future.set_exception(error)


def _number(resource_version: str) -> int:
    return int(resource_version) if resource_version.isdecimal() else 0
