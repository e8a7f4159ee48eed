"""Programs built from Go modules: pinned by the go.mod and go.sum of a folder each, cached by their version.

cache/bin/<folder>-<version>/<program>
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from cluster.node.places import HERE, Trouble, cache, say


@dataclass(frozen=True)
class Tool:
    """A program: its folder under `go/`, and the package that is its `main`."""

    folder: str
    package: str


_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
TOOLS = {
    **{name: Tool("kubernetes", f"k8s.io/kubernetes/cmd/{name}") for name in _CONTROL_PLANE},
    "etcd": Tool("etcd", "go.etcd.io/etcd/server/v3"),
    **{name: Tool("containerd", f"{_CONTAINERD}/{name}") for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
    "coredns": Tool("coredns", "github.com/coredns/coredns"),
    "local-path-provisioner": Tool("local-path-provisioner", "github.com/rancher/local-path-provisioner"),
    "helm": Tool("helm", "helm.sh/helm/v4/cmd/helm"),
    "kind": Tool("kind", "sigs.k8s.io/kind"),
    "kwok": Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
}
NODE = (*_CONTROL_PLANE, "etcd", "containerd", "containerd-shim-runc-v2", "ctr", "coredns", "local-path-provisioner")
"""What a bare node consists of."""


@once
def version(name: str) -> str:
    """The version that go.mod requires, such as `v1.37.2`."""
    tool = TOOLS[name]
    required = re.findall(r"^\s*(\S+) (v\S+)", (HERE / "go" / tool.folder / "go.mod").read_text(), flags=re.MULTILINE)
    found: str = next(v for module, v in required if tool.package == module or tool.package.startswith(module + "/"))
    return found


def path(name: str) -> Path:
    """Where the program lies, or will once it is built."""
    return cache() / "bin" / f"{TOOLS[name].folder}-{version(name)}" / name


def missing(names: Iterable[str]) -> list[str]:
    """Those that are still to be built."""
    return [name for name in names if not path(name).is_file()]


def build(names: Iterable[str]) -> None:
    """Build what is missing, one after another: each is kept as soon as it is there, so a build may be broken off."""
    names = missing(names)
    if names and shutil.which("go") is None:
        raise Trouble(f"to build {', '.join(names)}, Go is needed on the PATH")
    for count, name in enumerate(names, 1):
        began = time.monotonic()
        say(f"building {name} {version(name)} ({count} of {len(names)}) …")
        _build(name)
        say(f"  {name}: {time.monotonic() - began:.0f} s")


def find(name: str) -> Path:
    """The program, built if need be; without Go, one on the PATH serves (of whatever version)."""
    if missing([name]) and shutil.which("go") is None and (other := shutil.which(name)):
        return Path(other)
    build([name])
    return path(name)


def _build(name: str) -> None:
    target = path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{name}.part")
    command = ["go", "build", "-trimpath", "-ldflags", _linker_flags(name), "-o", str(part), TOOLS[name].package]
    # Without cgo, so that the programs also run in an image that has no C library.
    env = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    if subprocess.run(command, cwd=HERE / "go" / TOOLS[name].folder, env=env, check=False).returncode:
        part.unlink(missing_ok=True)
        raise Trouble(f"{name} could not be built (the reason is above); what was built before it is kept")
    part.replace(target)


def _linker_flags(name: str) -> str:
    if TOOLS[name].folder != "kubernetes":
        return "-s -w"
    # Kubernetes' parts compare their versions; unset, they are all v0.0.0.
    major, minor, _ = version(name).removeprefix("v").split(".", 2)
    where = "k8s.io/component-base/version"
    stamps = {"gitVersion": version(name), "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return "-s -w " + " ".join(f"-X {where}.{key}={value}" for key, value in stamps.items())
