"""The folders of the conversations: created here, and only what was created here is ever deleted."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

OWNER = "owner.json"
"""In a claimed volume: the record as it was when claimed. Without it a volume belongs to nobody."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Volume:
    """A worker's `VOLUME_DIR`, and the folder that Claude works in."""

    id: str
    path: Path
    workspace: Path


class Volumes:
    """`root/<uuid>/`, and the workspaces: inside, or `workspace_dir/<uuid>/`, or `workspace_dir` for all.

    All methods block.
    """

    def __init__(self, root: Path, workspace_dir: Path | None, *, per_conversation: bool) -> None:
        self.root = root
        self._workspace_dir = workspace_dir
        self._per_conversation = per_conversation

    def workspace_of(self, volume_id: str) -> str:
        """What a record says about the workspace of a new volume."""
        if self._workspace_dir is None:
            return ""
        return str(self._workspace_dir / volume_id if self._per_conversation else self._workspace_dir)

    def at(self, volume_id: str, workspace: str) -> Volume:
        """The volume that a record names, wherever its workspace was put at the time. Raises ValueError."""
        if not _ID.fullmatch(volume_id):
            raise ValueError(f"{volume_id!r} is not the id of a volume")
        path = self.root / volume_id
        return Volume(volume_id, path, Path(workspace) if workspace else path / "workspace")

    def create(self) -> Volume:
        """A new, empty volume. Raises OSError."""
        volume_id = str(uuid.uuid4())
        volume = self.at(volume_id, self.workspace_of(volume_id))
        self.ensure(volume)
        return volume

    def ensure(self, volume: Volume) -> None:
        """Make those of its folders that are missing."""
        volume.path.mkdir(mode=0o700, exist_ok=True)
        volume.workspace.mkdir(parents=True, exist_ok=True)

    def ids(self) -> list[str]:
        """Every volume there is, claimed or not."""
        return [e.name for e in os.scandir(self.root) if _ID.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]

    def remove(self, volume: Volume) -> None:
        """Delete the volume and its own workspace; a shared one stays. No symbolic link is followed. Raises OSError."""
        if volume.workspace.name == volume.id and volume.path not in volume.workspace.parents:
            _delete(volume.workspace)
        # Last, so that a removal that is cut off is seen, and finished, at the next start.
        _delete(volume.path)


def _delete(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    # Folders without write permission (Go's module cache is made of them) can be neither emptied nor removed.
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder)
