"""Records of keys in one file, for the endpoint on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from claude_crds.apikeys import KeyRecord, decode_file, encode_file
from claude_router.keys_command.store import Kept, KeysError, taken, unknown

Records = dict[str, KeyRecord]


class FileKeys:
    """The file's keys. A file that is not there has none; the first one makes it, for its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # what a symbolic link points to is replaced, not the link

    async def read(self) -> Kept:
        return Kept(await asyncio.to_thread(self._read))

    async def check_team(self, team: str) -> None:
        """Any: a team in a file is its name."""

    async def add(self, record: KeyRecord) -> None:
        def change(records: Records) -> None:
            if record.id in records:
                raise taken(record.id)
            records[record.id] = record

        await asyncio.to_thread(self._change, change)

    async def remove(self, key_id: str) -> None:
        def change(records: Records) -> None:
            if records.pop(key_id, None) is None:
                raise unknown(key_id)

        await asyncio.to_thread(self._change, change)

    def _read(self) -> Records:
        try:
            return decode_file(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise KeysError(f"{self._path}: {error}") from error

    def _change(self, change: Callable[[Records], None]) -> None:
        try:
            with self._alone() as folder:
                records = self._read()
                change(records)
                self._replace(encode_file(records))
                os.fsync(folder)
        except OSError as error:
            raise KeysError(f"{self._path} cannot be written: {error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """While no other command changes a file in this folder. The file itself is replaced, so it can hold no lock."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)

    def _replace(self, content: bytes) -> None:
        """Whole or not at all: a router that reads it meanwhile finds the old or the new."""
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(self._path, name)
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise
