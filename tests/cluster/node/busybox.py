"""The one image that a bare node needs, made here because no registry may answer: the host's busybox and its libraries.

It is the sandbox of every pod, where it sleeps (containerd ends a sandbox with SIGKILL, so it needs no signal handler),
the shell that makes volumes, and the root under CoreDNS and the provisioner.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from cluster.node.debian import PATH

IMAGE = "localhost/busybox:1"
_Member = tuple[tarfile.TarInfo, bytes]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive() -> bytes:
    """The image as a tar that `docker load` and `ctr images import` understand."""
    layer = _layer()
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer, "config.json": _json(config), "manifest.json": _json(manifest)}
    return _tar([_file(name, data) for name, data in files.items()])


def _layer() -> bytes:
    busybox = shutil.which("busybox", path=PATH)
    assert busybox is not None
    members = [_folder("etc"), _folder("tmp", 0o1777), _file("etc/nsswitch.conf", b"hosts: files dns\n")]
    members += [_file(library.lstrip("/"), Path(library).read_bytes(), 0o755) for library in _libraries(busybox)]
    members.append(_file("bin/busybox", Path(busybox).read_bytes(), 0o755))
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in sorted({*applets} - {"busybox"}):
        info = tarfile.TarInfo(f"bin/{applet}")
        info.type, info.linkname = tarfile.SYMTYPE, "busybox"
        members.append((info, b""))
    return _tar(members)


def _libraries(program: str) -> list[str]:
    """Paths of the shared libraries and the loader; none for a static program."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]


def _tar(members: list[_Member]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _file(name: str, data: bytes, mode: int = 0o644) -> _Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def _folder(name: str, mode: int = 0o755) -> _Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
