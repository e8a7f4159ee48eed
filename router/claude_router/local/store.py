"""What outlives the server, whatever kills it: `SESSIONS_DIR`.

    lock                      held while a server uses the folder
    sessions/<name>.json      a conversation's record; `<name>` as in `claude_crds.names`
    volumes/<uuid>/           a worker's volume; `owner.json` inside once a conversation has it
    quarantine/               records that could not be read

A volume is claimed by writing first its `owner.json`, then the record, and only then is a worker lent to anyone. So at
a start, a volume with neither was never used and is removed; one with `owner.json` but no record has lost its record,
and gets it back. A purge removes them in the same order, so it is never undone by half.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from claude_router.local import records, strays
from claude_router.local.records import Record, RecordTooNew, RecordUnreadable
from claude_router.local.volumes import OWNER, Volume, Volumes
from claude_router.sessions import ConversationKey, Usage

log = logging.getLogger(__name__)

LEFTOVER_SECONDS = 15.0
"""How long the workers of a killed server may take to end by themselves, their CLIs closed cleanly."""


class StoreError(Exception):
    """The folder cannot be used; the message says why and what to do."""


class Store:
    """The records in memory (1 KiB each) and on disk. Reads never block; writes happen in order on one thread."""

    def __init__(self, root: Path, volumes: Volumes, lock: TextIO) -> None:
        self.root = root
        self.volumes = volumes
        self.records: dict[str, Record] = {}
        self._lock = lock
        self._dirty: set[str] = set()
        self._names: dict[str | None, list[str]] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")

    @classmethod
    def open(cls, root: Path, *, workspace_dir: Path | None = None, per_conversation: bool = True) -> Store:
        """Take the folder and put it in order. Blocks, for seconds if workers of a killed server still end.

        Raises StoreError.
        """
        volumes = Volumes(root / "volumes", workspace_dir, per_conversation=per_conversation)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take_lock(root)
        except OSError as error:
            raise StoreError(f"SESSIONS_DIR {root} cannot be used: {error}") from error
        store = cls(root, volumes, lock)
        try:
            for folder in (store._folder, volumes.root):
                folder.mkdir(mode=0o700, exist_ok=True)
            store._await_leftovers()
            store._read_records()
            store._sort_volumes()
        except (OSError, StoreError) as error:
            store.close()
            raise error if isinstance(error, StoreError) else StoreError(f"{root} cannot be used: {error}") from error
        return store

    def close(self) -> None:
        """Finish writing and let the folder go."""
        self._writer.shutdown()
        self._lock.close()

    @property
    def _folder(self) -> Path:
        return self.root / "sessions"

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    # -- at the start --------------------------------------------------------------------------------------------

    def _await_leftovers(self) -> None:
        mark = f"{self.volumes.root}/"
        if strays.find(mark, prefix=True):
            log.warning("workers of a server that was killed still run; waiting for them")
            if killed := strays.await_end(mark, LEFTOVER_SECONDS):
                log.warning("%d processes of a server that was killed did not end and were killed", killed)

    def _read_records(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".tmp":
                path.unlink()
                continue
            try:
                record = records.decode(path.read_bytes())
                if path != self._path(record.key.name):
                    raise RecordUnreadable("it belongs to another conversation than its name says")
                self.volumes.at(record.volume, record.workspace)
            except RecordTooNew as error:
                raise StoreError(
                    f"{path} was written by a later version of this program ({error}): "
                    "run that version, or set SESSIONS_DIR to another folder"
                ) from error
            except (RecordUnreadable, ValueError) as error:
                self._quarantine(path, error)
            else:
                self.records[record.key.name] = record

    def _quarantine(self, path: Path, why: Exception) -> None:
        target = self.root / "quarantine" / f"{path.name}.{time.time_ns()}"
        target.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(target)
        log.error("the record %s cannot be read (%s); moved to %s", path.name, why, target)

    def _sort_volumes(self) -> None:
        claimed = {r.volume for r in self.records.values()}
        for volume_id in self.volumes.ids():
            if volume_id in claimed:
                continue
            owner = self.volumes.root / volume_id / OWNER
            if owner.exists():
                self._recover(volume_id, owner)
            else:
                self.volumes.remove(self.volumes.at(volume_id, self.volumes.workspace_of(volume_id)))

    def _recover(self, volume_id: str, owner: Path) -> None:
        try:
            record = records.decode(owner.read_bytes())
        except (RecordUnreadable, RecordTooNew) as error:
            log.error("the volume %s has no record and no readable %s (%s); it is kept", volume_id, OWNER, error)
            return
        name = record.key.name
        if record.volume != volume_id or name in self.records:
            log.error("the volume %s says that it is %s, which has another one; it is kept", volume_id, name)
            return
        log.warning("the record of %s was lost; restored from its volume", name)
        records.write(self._path(name), records.encode(record))
        self.records[name] = record

    # -- while serving -------------------------------------------------------------------------------------------

    def names(self, tenant: str | None) -> Sequence[str]:
        """The tenant's conversations (None: all tenants') by object name, sorted."""
        if tenant not in self._names:
            self._names[tenant] = sorted(n for n, r in self.records.items() if tenant in (None, r.tenant))
        return self._names[tenant]

    def _forget_names(self, tenant: str) -> None:
        self._names.pop(tenant, None)
        self._names.pop(None, None)

    def volume(self, name: str) -> Volume:
        """The conversation's volume. Raises OSError when its folders can neither be found nor made."""
        record = self.records[name]
        volume = self.volumes.at(record.volume, record.workspace)
        self.volumes.ensure(volume)
        return volume

    async def claim(self, key: ConversationKey, volume: Volume) -> None:
        """Give the volume to a new conversation. Raises OSError; ValueError when the id is not text.

        On return it survives the end of this process; a power cut too a moment later, which the first turn need not
        wait for (10 ms and more, a tenth of it).
        """
        now = time.time()
        workspace = self.volumes.workspace_of(volume.id)
        record = Record(key.tenant, key.id, volume.id, created=now, last_active=now, workspace=workspace)
        data = records.encode(record)

        def write() -> None:
            (volume.path / OWNER).write_bytes(data)
            records.put(self._path(key.name), data)

        try:
            await self._in_order(write)
        except OSError:
            # Else the next start would take the volume for this conversation's.
            with suppress(OSError):
                (volume.path / OWNER).unlink(missing_ok=True)
            raise
        self.records[key.name] = record
        self._forget_names(key.tenant)
        self._writer.submit(self._make_durable, key.name)

    def _make_durable(self, name: str) -> None:
        try:
            records.make_durable(self._path(name))
        except OSError as error:
            log.error("the record of %s may not survive a power cut: %s", name, error)

    def note(self, name: str, *, last_active: float, turns: int, usage: Usage, claude_session_id: str) -> None:
        """Bring the record up to date in memory; `flush` writes it."""
        record = self.records[name]
        last_active = max(last_active, record.last_active)
        fresh = (last_active, turns, usage, claude_session_id)
        if fresh != (record.last_active, record.turns, record.usage, record.claude_session_id):
            record.last_active, record.turns, record.usage, record.claude_session_id = fresh
            self._dirty.add(name)

    def note_tips(self, name: str, tips: str) -> None:
        """See `note`."""
        self.records[name].tips = tips
        self._dirty.add(name)

    @property
    def dirty(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._dirty)

    async def flush(self) -> None:
        """Write the records that have changed. What cannot be written is logged, and tried again the next time."""
        pending = {name: records.encode(self.records[name]) for name in self._dirty if name in self.records}
        self._dirty.clear()

        def write() -> None:
            for name, data in pending.items():
                try:
                    records.write(self._path(name), data)
                except OSError as error:
                    log.error("the record of %s could not be written: %s", name, error)
                    self._dirty.add(name)

        await self._in_order(write)

    async def remove(self, name: str) -> None:
        """Forget the conversation and delete its memory and its own workspace. Raises OSError if it is still there."""
        # Out of the memory first: a flush meanwhile would write the record again.
        record = self.records.pop(name)
        self._forget_names(record.tenant)
        volume = self.volumes.at(record.volume, record.workspace)

        def forget() -> None:
            (volume.path / OWNER).unlink(missing_ok=True)
            self._path(name).unlink(missing_ok=True)
            records.sync_folder(self._folder)

        try:
            await self._in_order(forget)
        except OSError:
            self.records[name] = record
            self._forget_names(record.tenant)
            raise
        await self.discard(volume)

    async def discard(self, volume: Volume) -> None:
        """Delete a volume that no conversation has. A failure is logged; the next start tries again."""

        def delete() -> None:
            try:
                self.volumes.remove(volume)
            except OSError as error:
                log.error("the volume %s could not be deleted: %s", volume.id, error)

        # Not on the writer's thread: a large workspace would hold up every claim.
        await asyncio.to_thread(delete)

    async def _in_order(self, act: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, act)


def _take_lock(root: Path) -> TextIO:
    # "a+": the holder's process id must not be wiped by one who does not get the lock.
    lock = (root / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read(20).strip()
        lock.close()
        raise StoreError(
            f"{root} is in use by another server{f' (process {holder})' if holder else ''}: "
            "stop that one, or set SESSIONS_DIR to another folder"
        ) from None
    with suppress(OSError):
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    return lock
