"""An OCI bundle for runc from an image in buildah's store: what `docker compose up` would run, without an engine.

Read-only root, no capabilities, no new privileges, the image's own user, command and environment; the host's network,
since the test machine has no engine to make another.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _mount(destination: str, source: str, *options: str, kind: str = "bind") -> Json:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _mounts(data: Path) -> list[Json]:
    return [
        _mount("/proc", "proc", kind="proc"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", kind="tmpfs"),
        _mount("/dev/shm", "shm", "nosuid", "nodev", "mode=1777", kind="tmpfs"),
        _mount("/sys", "/sys", "rbind", "ro"),
        _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", kind="tmpfs"),
        _mount("/home/claude", "tmpfs", "nosuid", "nodev", "uid=10001", "gid=10001", "mode=750", kind="tmpfs"),
        _mount("/data", str(data), "rbind", "rw"),
    ]


class Bundle:
    """A working container of an image, mounted, with a `config.json` that runc can run."""

    def __init__(self, image: str, folder: Path, data: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._container = _buildah("from", "--pull-never", image)
        root = _buildah("mount", self._container)
        config = json.loads(_buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
        self.user = int(config["User"])
        os.chown(data, self.user, self.user)
        given = [*config["Env"], *(f"{k}={v}" for k, v in env.items())]
        spec = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": self.user, "gid": self.user},
                "args": [*(config.get("Entrypoint") or []), *config["Cmd"]],
                "env": given,
                "cwd": config["WorkingDir"],
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "root": {"path": root, "readonly": True},
            "mounts": _mounts(data),
            "linux": {"namespaces": [{"type": n} for n in ("pid", "ipc", "uts", "mount")]},
        }
        (folder / "config.json").write_text(json.dumps(spec))

    def close(self) -> None:
        """Unmount and remove the working container."""
        _buildah("umount", self._container)
        _buildah("rm", self._container)
