"""kind, where a container engine runs and has its node image: version pinned in go/kind, image in kind.yaml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from cluster.node import engine, tools
from cluster.node.places import HERE, Trouble, cache, say

name = "kind"
_CLUSTER = "claude-code-api"
_CONFIG = HERE / "kind.yaml"


def kubeconfig() -> Path:
    return cache() / "kind.kubeconfig"


def obstacle() -> str | None:
    """Why kind cannot serve here, or None. Pulls the node image."""
    found = engine.running()
    if found is None:
        return "no container engine runs for kind"
    image = re.findall(r"image: (\S+)", _CONFIG.read_text())[0]
    if not engine.has(found, image):
        return f"{found} cannot pull kind's node image"
    if tools.missing(["kind"]) and not (shutil.which("go") or shutil.which("kind")):
        return "kind is not installed, nor Go to build it"
    return None


def runs() -> bool:
    """Whether our cluster is there and answers."""
    if not kubeconfig().exists():
        return False
    command = [str(tools.find("kubectl")), f"--kubeconfig={kubeconfig()}", "get", "--raw=/readyz"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def up() -> None:
    """Make the cluster anew."""
    down()
    say("making a kind cluster …")
    options = ["--config", str(_CONFIG), "--kubeconfig", str(kubeconfig()), "--wait", "180s"]
    _kind("create", "cluster", "--name", _CLUSTER, *options)


def down() -> None:
    """Delete the cluster; nothing happens if there is none."""
    if kubeconfig().exists():
        _kind("delete", "cluster", "--name", _CLUSTER, "--kubeconfig", str(kubeconfig()))
        kubeconfig().unlink(missing_ok=True)


def build(image: str, dockerfile: Path, context: Path) -> None:
    engine.build(_engine(), image, dockerfile, context)


def load(image: str) -> None:
    """Bring an image of the engine to the node."""
    if _engine() == "docker":
        _kind("load", "docker-image", image, "--name", _CLUSTER)
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:  # kind takes an image from podman as a file only
        subprocess.run(["podman", "save", "--quiet", "--output", file.name, image], check=True)
        _kind("load", "image-archive", file.name, "--name", _CLUSTER)


def _engine() -> str:
    found = engine.running()
    if found is None:
        raise Trouble("no container engine runs any more; the kind cluster ran in one")
    return found


def _kind(*arguments: str) -> None:
    env = os.environ | {"KIND_EXPERIMENTAL_PROVIDER": _engine()}
    done = subprocess.run([str(tools.find("kind")), *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"kind {' '.join(arguments[:2])}: {done.stderr[-2000:]}")
