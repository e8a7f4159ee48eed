"""Files below one folder, reached so that nothing outside of it ever is.

Every folder on the way is opened by its parent's descriptor and no symbolic link is followed, so a link that is put
there at the last moment leads nowhere either. Everything here blocks.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from claude_worker.openai.errors import ApiError, bad_request

log = logging.getLogger(__name__)

NAME_MAX = 255
PATH_MAX = 4096
"""Both in bytes, as on Linux."""
DEPTH_MAX = 128
"""Folders within folders: each that is being read holds a descriptor."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def split(path: str) -> tuple[str, ...]:
    """The names on the way to a file below the root. Raises ApiError (400) for anything but a plain relative path."""
    parts = tuple(path.split("/"))
    why = ""
    if not path:
        why = "it is empty"
    elif "\0" in path:
        why = "it holds a NUL character"
    elif path.startswith("/"):
        why = "it is absolute; paths are relative to the workspace"
    elif any(part in ("", ".", "..") for part in parts):
        why = "it holds an empty name, '.' or '..'"
    elif len(parts) > DEPTH_MAX or len(_bytes(path)) > PATH_MAX or any(len(_bytes(p)) > NAME_MAX for p in parts):
        why = "it is too long"
    if why:
        raise bad_request(f"The path is not valid: {why}.", code="invalid_path", param="path")
    return parts


def _bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        raise bad_request("The path is not valid: it is no text.", code="invalid_path", param="path") from None


@contextmanager
def told(path: str) -> Iterator[None]:
    """The system's errors as the client's, about this path (which it sent itself)."""
    try:
        yield
    except OSError as error:
        raise _api_error(error, path) from error


def _api_error(error: OSError, path: str) -> ApiError:
    match error.errno:
        case errno.ENOENT:
            return ApiError(404, f"There is no {path!r} in the workspace.", code="file_not_found", param="path")
        case errno.ELOOP | errno.ENOTDIR:
            why = f"{path!r} leads through a symbolic link or a file; links are not followed."
            return bad_request(why, code="invalid_path", param="path")
        case errno.EISDIR | errno.ENOTEMPTY | errno.EEXIST:
            return ApiError(409, f"{path!r} is a folder.", code="is_a_folder", param="path")
        case errno.ENXIO | errno.ENODEV:
            return not_a_file(path)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ApiError(403, f"{path!r} may not be accessed.", code="permission_denied", param="path")
        case errno.ENAMETOOLONG:
            return bad_request("The path is not valid: it is too long.", code="invalid_path", param="path")
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return ApiError(507, "The conversation's volume is full.", code="volume_full", retry=False)
    log.error("%s", error)
    return ApiError(500, "The file could not be accessed; the worker's log says why.", code="internal_error")


def not_a_file(path: str) -> ApiError:
    """The error for a pipe, a device or a socket."""
    return bad_request(f"{path!r} is not a regular file.", code="not_a_file", param="path")


@contextmanager
def folder(root: Path, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """The descriptor of a folder below `root`, by default only if it is there. Raises OSError."""
    fd = os.open(root, _FOLDER)
    try:
        for name in parts:
            below = _enter(fd, name, create=create)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _enter(fd: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=fd)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=fd)
    return os.open(name, _FOLDER, dir_fd=fd)


def open_file(root: Path, path: str) -> tuple[int, os.stat_result]:
    """The descriptor of a regular file, and what it is. Raises ApiError."""
    *above, name = split(path)
    with told(path), folder(root, above) as parent:
        fd = os.open(name, _FILE, dir_fd=parent)
        found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return fd, found
    os.close(fd)
    if stat.S_ISDIR(found.st_mode):
        why = f"{path!r} is a folder. `GET …/files?list=true&under={path}` lists it."
        raise ApiError(409, why, code="is_a_folder", param="path")
    raise not_a_file(path)


class Draft:
    """A file that is being written beside its place, and takes it all at once: `write` …, `commit`; always `close`.

    Made with the folders above it. A file that is there before keeps its permissions; a link is replaced, not followed.
    """

    def __init__(self, root: Path, parts: Sequence[str], *, mode: int | None = None) -> None:
        """Raises OSError."""
        *above, self._name = parts
        self._mode = mode
        with folder(root, above, create=True) as parent:
            self._parent = os.dup(parent)
        self._draft = f".claude-put-{secrets.token_hex(8)}"
        try:
            self._fd = os.open(self._draft, _DRAFT, 0o666, dir_fd=self._parent)
        except OSError:
            os.close(self._parent)
            raise

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def commit(self, *, mtime: float | None = None) -> bool:
        """Put it in its place; whether nothing was there before. Raises OSError, also when a folder is there.

        With an `mtime` it is one of many, which are not waited for until they are on the disk.
        """
        before = self._before()
        if self._mode is not None:
            os.fchmod(self._fd, self._mode)
        elif before is not None and stat.S_ISREG(before.st_mode):
            os.fchmod(self._fd, stat.S_IMODE(before.st_mode) & 0o777)
        if mtime is None:
            os.fsync(self._fd)
        else:
            os.utime(self._fd, (mtime, mtime))
        os.replace(self._draft, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._draft = ""
        return before is None

    def _before(self) -> os.stat_result | None:
        try:
            return os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Let go; what was not committed is gone."""
        if self._draft:
            with suppress(OSError):
                os.unlink(self._draft, dir_fd=self._parent)
        os.close(self._fd)
        os.close(self._parent)


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the tree: its path below the root, what it is, and the descriptor of the folder it is in.

    The descriptor is good until the next entry is asked for.
    """

    path: str
    name: str
    stat: os.stat_result
    parent: int

    def open(self) -> int | None:
        """Its descriptor if it is, still, a regular file that may be read."""
        try:
            fd = os.open(self.name, _FILE, dir_fd=self.parent)
        except OSError as error:
            log.warning("a file is left out: %s", error)
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None


def walk(
    root: Path,
    under: Sequence[str] = (),
    *,
    after: Sequence[str] = (),
    keep: Callable[[str], bool] = lambda path: True,
) -> Iterator[Entry]:
    """Everything below `root/under`, each folder before what is in it, names in order.

    `after`: only what comes after that path. What `keep` refuses is left out with everything in it. What vanishes
    meanwhile, or may not be read, is left out. Raises OSError when `under` is not there.
    """
    with folder(root, under) as top:
        yield from _walk(top, tuple(under), tuple(after[len(under) :]), keep)


def _walk(fd: int, way: tuple[str, ...], after: tuple[str, ...], keep: Callable[[str], bool]) -> Iterator[Entry]:
    if len(way) >= DEPTH_MAX:
        log.warning("folders nested deeper than %s are left out", DEPTH_MAX)
        return
    first = after[0] if after else ""
    for name in sorted(name for name in os.listdir(fd) if name >= first):
        path = "/".join((*way, name))
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not keep(path):
            continue
        passed = name == first
        if not passed:
            yield Entry(path, name, found, fd)
        if stat.S_ISDIR(found.st_mode):
            try:
                below = os.open(name, _FOLDER, dir_fd=fd)
            except OSError as error:
                log.warning("a folder is left out: %s", error)
                continue
            try:
                yield from _walk(below, (*way, name), after[1:] if passed else (), keep)
            finally:
                os.close(below)
