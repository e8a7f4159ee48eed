"""Tar archives in bounded memory: as pieces of bytes from a tree, and from a stream of bytes into a tree.

Written in GNU's format, which every tar reads. Read is only what is written here: files, folders, symbolic links. That
is stricter than `tarfile`'s own filters: nothing is followed on the way, nothing but plain relative paths is made, no
header is larger than a path, and permissions beyond the usual are dropped. Everything here blocks.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from tarfile import BLOCKSIZE, TarInfo

from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.tree import PATH_MAX, Entry

PIECE = 256 * 1024
END = bytes(2 * BLOCKSIZE)
_LONG = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE}


def invalid(why: str) -> ApiError:
    """The error for an archive that is none, or not one of ours."""
    return bad_request(f"The archive is not valid: {why}.", code="invalid_archive")


# -- writing ---------------------------------------------------------------------------------------------------------


def _header(name: str, kind: bytes, *, size: int = 0, mode: int = 0o644, mtime: float = 0, link: str = "") -> bytes:
    info = TarInfo(name)
    info.type, info.size, info.mode, info.mtime, info.linkname = kind, size, mode, int(mtime), link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCKSIZE)


def of_bytes(name: str, data: bytes) -> Iterator[bytes]:
    """One file, given whole."""
    yield _header(name, tarfile.REGTYPE, size=len(data)) + data + _padding(len(data))


def of_entries(entries: Iterable[Entry], prefix: str = "") -> Iterator[bytes]:
    """The files, folders and links among them; anything else is left out. A file is as long as it was at its turn."""
    for entry in entries:
        name, mode, mtime = prefix + entry.path, stat.S_IMODE(entry.stat.st_mode) & 0o777, entry.stat.st_mtime
        if stat.S_ISDIR(entry.stat.st_mode):
            yield _header(name, tarfile.DIRTYPE, mode=mode, mtime=mtime)
        elif stat.S_ISLNK(entry.stat.st_mode):
            try:
                link = os.readlink(entry.name, dir_fd=entry.parent)
            except OSError:
                continue  # it was one a moment ago
            yield _header(name, tarfile.SYMTYPE, mode=0o777, mtime=mtime, link=link)
        elif stat.S_ISREG(entry.stat.st_mode) and (fd := entry.open()) is not None:
            try:
                yield from _of_file(fd, name, mode, mtime)
            finally:
                os.close(fd)


def _of_file(fd: int, name: str, mode: int, mtime: float) -> Iterator[bytes]:
    size = os.fstat(fd).st_size
    yield _header(name, tarfile.REGTYPE, size=size, mode=mode, mtime=mtime)
    left = size
    while left:
        # One that was cut off meanwhile is filled up: its length is already on its way.
        data = os.read(fd, min(PIECE, left)) or bytes(min(PIECE, left))
        left -= len(data)
        yield data
    yield _padding(size)


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer, larger pieces, none of them empty."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


# -- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One file, folder or link of an archive. `data` has to be read before the next member is asked for."""

    path: str
    kind: str
    size: int
    mode: int
    mtime: float
    link: str
    data: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a whole archive: bytes and members."""

    size: int = 16 * 1024**3
    members: int = 1_000_000


def members(read: Callable[[int], bytes], limits: Limits) -> Generator[Member, None, None]:
    """What is in the archive. `read(n)` gives n bytes, fewer only at the end. Raises ApiError (400, 413)."""
    names: dict[bytes, str] = {}
    size = count = 0
    while (block := _exactly(read, BLOCKSIZE)) != bytes(BLOCKSIZE):
        info = _parse(block)
        count += 1
        size += BLOCKSIZE + info.size
        if size > limits.size or count > limits.members:
            raise ApiError(413, "The archive is too large.", code="archive_too_large", retry=False)
        if info.type in _LONG:
            if info.size > PATH_MAX + 1:
                raise invalid("a name is too long")
            names[info.type] = os.fsdecode(_content(read, info.size).split(b"\0", 1)[0])
            continue
        name = names.pop(tarfile.GNUTYPE_LONGNAME, info.name).rstrip("/")
        link = names.pop(tarfile.GNUTYPE_LONGLINK, info.linkname)
        data = _pieces(read, info.size)
        yield Member(name, _kind(info), info.size, info.mode & 0o755, info.mtime, link, data)
        for _ in data:  # what was not wanted
            pass


def _parse(block: bytes) -> TarInfo:
    try:
        info = TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise invalid(str(error)) from error
    if info.size < 0:
        raise invalid("a size is negative")
    return info


def _kind(info: TarInfo) -> str:
    if info.type in _FILES:
        return "file"
    if info.size == 0 and info.type == tarfile.DIRTYPE:
        return "folder"
    if info.size == 0 and info.type == tarfile.SYMTYPE:
        return "link"
    raise invalid(f"it holds a member of type {info.type!r}")


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) < size:
        raise invalid("it ends too early")
    return data


def _content(read: Callable[[int], bytes], size: int) -> bytes:
    return b"".join(_pieces(read, size))


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        data = _exactly(read, min(PIECE, left))
        left -= len(data)
        yield data
    _exactly(read, -size % BLOCKSIZE)
