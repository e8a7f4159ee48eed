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

import yaml

Json = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[2]
_SERVICE: Json = yaml.safe_load((_ROOT / "compose.yaml").read_text())["services"]["claude-code-api"]


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _mount(destination: str, source: str, *options: str, kind: str = "bind") -> Json:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _tmpfs(entry: str) -> Json:
    """An entry of compose.yaml's `tmpfs`, with the options that Docker adds unless the entry says otherwise."""
    target, _, given = entry.partition(":")
    options = given.split(",")
    return _mount(
        target, "tmpfs", "nosuid", "nodev", *([] if "exec" in options else ["noexec"]), *options, kind="tmpfs"
    )


def _mounts(data: Path) -> list[Json]:
    return [
        _mount("/proc", "proc", kind="proc"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", kind="tmpfs"),
        _mount("/dev/shm", "shm", "nosuid", "nodev", "mode=1777", kind="tmpfs"),
        _mount("/sys", "/sys", "rbind", "ro"),
        *(_tmpfs(entry) for entry in _SERVICE["tmpfs"]),
        _mount("/data", str(data), "rbind", "rw"),
    ]


class Bundle:
    """A working container of an image, mounted, with a `config.json` that runc can run."""

    def __init__(self, image: str, folder: Path, data: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._container = _buildah("from", "--pull-never", image)
        root = _buildah("mount", self._container)
        config = json.loads(_buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
        self.health_check: list[str] = _SERVICE["healthcheck"]["test"][1:]
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
