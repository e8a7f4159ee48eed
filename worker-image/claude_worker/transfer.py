"""A conversation on its way from one worker's volume to another's: workspace, memory and ledger as one tar archive.

    manifest.json           where workspace and memory were
    state.json, ledger      as on the volume
    claude/…                what the CLI remembers
    workspace/…

Of the CLI's folder only what is known to be memory goes along, so that no credential ever does, whatever a later CLI
writes there. Transcripts go unchanged: a CLI that resumes in another folder tells the model so by itself. All blocks.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec

from claude_worker import tar, tree
from claude_worker.ledger import STATE_VERSION, State, Totals
from claude_worker.openai.errors import ApiError
from claude_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

MEMORY = frozenset(("projects", "file-history", "plans", "tasks", "todos"))
"""What of the CLI's folder is the conversation's, as of CLI 2.1.330."""

_LOCK = ".lock"
_SMALL = 16 * 1024 * 1024
"""Most bytes of `manifest.json`, and of `state.json`, which holds a client's system prompt."""
_SLUG_MAX = 200


class Manifest(msgspec.Struct):
    """Where the workspace was on the volume that the archive was made of."""

    workspace: str
    version: int = 1


# -- out -------------------------------------------------------------------------------------------------------------


def pack_workspace(workspace: Path) -> Generator[bytes, None, None]:
    """The workspace alone, names as in it."""
    yield from tar.gathered(_ended(tar.of_entries(tree.walk(workspace.resolve()))))


def pack(settings: WorkerSettings) -> Generator[bytes, None, None]:
    """The whole conversation, but no workspace that others share. No turn may run meanwhile."""
    yield from tar.gathered(_ended(_conversation(settings)))


def _owns_workspace(settings: WorkerSettings) -> bool:
    """Whether it is this volume's: inside of it, or named after it (as the local pool does)."""
    volume, workspace = settings.volume.resolve(), settings.workspace.resolve()
    return volume in workspace.parents or workspace.name == volume.name


def _ended(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces
    yield tar.END


def _conversation(settings: WorkerSettings) -> Iterator[bytes]:
    manifest = Manifest(str(settings.workspace.resolve()))
    yield from tar.of_bytes("manifest.json", msgspec.json.encode(manifest))
    yield from tar.of_entries(tree.walk(settings.volume.resolve(), keep=lambda p: p in ("state.json", "ledger")))
    remembered = tree.walk(settings.config_dir.resolve(), keep=_is_memory)
    yield from tar.of_entries((e for e in remembered if not stat.S_ISLNK(e.stat.st_mode)), "claude/")
    if _owns_workspace(settings):
        yield from tar.of_entries(tree.walk(settings.workspace.resolve()), "workspace/")


def _is_memory(path: str) -> bool:
    top, _, _ = path.partition("/")
    return top in MEMORY and not path.endswith(_LOCK)


# -- in --------------------------------------------------------------------------------------------------------------


def unpack(settings: WorkerSettings, read: Callable[[int], bytes], limits: tar.Limits | None = None) -> None:
    """Put an archive onto the volume of a worker without a conversation: all of it, or nothing.

    `read(n)` gives n bytes of it, fewer only at its end. Raises ApiError, and what `read` raises.
    """
    unpacking = _Unpacking(settings)
    try:
        with closing(tar.members(read, limits or tar.Limits())) as members:
            for member in members:
                with tree.told(member.path):
                    unpacking.take(member)
        with tree.told("state.json"):
            unpacking.finish()
    except BaseException:
        unpacking.undo()
        raise


class _Unpacking:
    """What makes the volume a conversation's, its state, comes last."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._volume = settings.volume.resolve()
        self._claude = settings.config_dir.resolve()
        self._workspace = settings.workspace.resolve()
        with os.scandir(self._workspace) as found:
            self._fresh = next(found, None) is None and _owns_workspace(settings)
        self._there: str | None = None
        self._state = b""

    def take(self, member: tar.Member) -> None:
        """Put it where it belongs. Raises ApiError and OSError."""
        top, _, rest = member.path.partition("/")
        if member.path == "manifest.json":
            self._learn(_decoded(member, Manifest))
        elif self._there is None:
            raise tar.invalid("it does not begin with its manifest")
        elif member.path == "state.json":
            self._state = _begun(_decoded(member, State))
        elif member.path == "ledger" and member.kind == "file":
            _place(self._volume, ("ledger",), member, member.link)
        elif top == "claude" and _is_memory(rest) and member.kind != "link":
            _place(self._claude, self._renamed(tree.split(rest)), member, member.link)
        elif top == "workspace" and rest:
            if not self._fresh:
                raise ApiError(
                    409, "The workspace has files already, or is shared.", code="workspace_not_empty", retry=False
                )
            _place(self._workspace, tree.split(rest), member, self._moved(member.link))
        else:
            raise tar.invalid(f"{member.path!r} is no part of a conversation")

    def finish(self) -> None:
        """Write the state. Raises ApiError when there was none, and OSError."""
        if not self._state:
            raise tar.invalid("it holds no state")
        temporary = self._volume / "state.tmp"
        with temporary.open("wb") as file:
            file.write(self._state)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._volume / "state.json")

    def undo(self) -> None:
        """Empty again what was empty before: another archive, or another conversation, may come."""
        if self._fresh:
            for name in os.listdir(self._workspace):
                _remove(self._workspace / name)
        for name in MEMORY:
            _remove(self._claude / name)
        for name in ("ledger", "state.tmp"):
            self._volume.joinpath(name).unlink(missing_ok=True)

    def _learn(self, manifest: Manifest) -> None:
        if manifest.version != Manifest("").version:
            raise tar.invalid(f"it has version {manifest.version}")
        self._there = manifest.workspace

    def _moved(self, link: str) -> str:
        """Where a link leads to, when it led into the workspace by its full path."""
        if self._there and (link == self._there or link.startswith(self._there + "/")):
            return str(self._workspace) + link[len(self._there) :]
        return link

    def _renamed(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """The CLI names a project's folder after the workspace, and looks there for what it has learned about it."""
        old, new = _slug(self._there or ""), _slug(str(self._workspace))
        if old and new and len(parts) > 1 and parts[:2] == ("projects", old):
            return ("projects", new, *parts[2:])
        return parts


def _place(root: Path, parts: tuple[str, ...], member: tar.Member, link: str) -> None:
    if member.kind == "folder":
        with tree.folder(root, parts, create=True):
            return
    if member.kind == "link":
        with tree.folder(root, parts[:-1], create=True) as parent:
            os.symlink(link, parts[-1], dir_fd=parent)
        return
    with closing(tree.Draft(root, parts, mode=member.mode | 0o600)) as draft:
        for piece in member.data:
            draft.write(piece)
        draft.commit(mtime=member.mtime)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _slug(path: str) -> str:
    """The name of a project's folder; "" for long paths, whose names end in a hash."""
    slug = re.sub(r"[^a-zA-Z0-9]", lambda found: "-" * (1 + (found[0] > "\uffff")), path)
    return slug if len(slug) <= _SLUG_MAX else ""


def _decoded(member: tar.Member, type_: type[T]) -> T:
    if member.kind != "file" or member.size > _SMALL:
        raise tar.invalid(f"{member.path!r} is not a small file")
    try:
        return msgspec.json.decode(b"".join(member.data), type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise tar.invalid(f"{member.path!r} cannot be read: {error}") from error


def _begun(state: State) -> bytes:
    """The state of a conversation that begins where another one is: what that one has cost stays its own."""
    if state.version > STATE_VERSION:
        raise tar.invalid(f"its state has version {state.version}; this worker knows {STATE_VERSION}")
    state.turns, state.totals = 0, Totals()
    return msgspec.json.encode(state)
