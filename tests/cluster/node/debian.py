"""Programs of the operating system: found, or installed from Debian's packages when that can be done."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cluster.node.places import Trouble, say

NODE = {
    "runc": "runc",
    "busybox": "busybox",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "iptables": "iptables",
    "nft": "nftables",
    "openssl": "openssl",
}
"""What a bare node needs: program → package. The CNI plugins, which are no programs on the PATH, come beside it."""

IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "runc": "runc"}
"""What building an image without an engine needs."""

_CNI_FOLDERS = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
"""The PATH with the administrator's folders, which a user's own may lack."""


def missing(programs: dict[str, str], *, cni: bool = False) -> list[str]:
    """The packages whose programs are not there."""
    packages = {package for program, package in programs.items() if shutil.which(program, path=PATH) is None}
    if cni and not any(Path(folder, "ptp").exists() for folder in _CNI_FOLDERS):
        packages.add("containernetworking-plugins")
    return sorted(packages)


def installable() -> bool:
    """Whether `install` can do anything here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: list[str]) -> None:
    """Install the packages; nothing happens when the list is empty."""
    if not packages:
        return
    wanted = " ".join(packages)
    if not installable():
        raise Trouble(f"needed, and to be installed by hand here: {wanted}")
    say(f"installing {wanted} …")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    wait = ("-o", "DPkg::Lock::Timeout=300")  # somebody else may be installing something
    for command in (["update", "-qq"], ["install", "-qq", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *wait, *command], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Trouble(f"apt-get could not install {wanted}:\n{(done.stdout + done.stderr)[-2000:]}")
