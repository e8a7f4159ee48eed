"""What is remembered of a conversation while no worker runs: one small JSON file each, replaced atomically."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from claude_router.sessions import ConversationKey, Usage

RECORD_VERSION = 1


class RecordUnreadable(Exception):
    """The file does not hold a record."""


class RecordTooNew(Exception):
    """The file was written by a later version of this program."""


class Record(msgspec.Struct, gc=False):
    """A conversation. Times in Unix seconds; `workspace` is absolute, or "" for the folder inside the volume.

    The numbers may lag behind by some seconds after a crash: the worker's own state on the volume is exact. `tips` are
    as in `claude_router.tips`.
    """

    tenant: str
    conversation: str
    volume: str
    created: float
    last_active: float
    turns: int = 0
    usage: Usage = Usage()
    workspace: str = ""
    claude_session_id: str = ""
    version: int = RECORD_VERSION
    tips: str = ""

    @property
    def key(self) -> ConversationKey:
        return ConversationKey(self.tenant, self.conversation)


class _Versioned(msgspec.Struct):
    version: int


def encode(record: Record) -> bytes:
    """The file's bytes. Raises UnicodeEncodeError when the id holds a lone surrogate."""
    return msgspec.json.encode(record)


def decode(data: bytes) -> Record:
    """Raises RecordUnreadable, RecordTooNew."""
    try:
        if (found := msgspec.json.decode(data, type=_Versioned).version) > RECORD_VERSION:
            raise RecordTooNew(f"version {found}, this program knows {RECORD_VERSION}")
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordUnreadable(str(error)) from error


def write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; after the return it survives a power cut, and before it the old content does."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def put(path: Path, data: bytes) -> None:
    """Like `write`, but survives only the end of this process, not a power cut: `make_durable` must follow."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def make_durable(path: Path) -> None:
    """Make a file and its name durable; one that has gone meanwhile needs nothing."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
