"""The user's own cluster, named by CLUSTER_KUBECONFIG: never started or stopped.

Its images come from a registry that it can pull from and that the user may push to, named by CLUSTER_REGISTRY.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cluster.node import debian, engine, tools
from cluster.node.places import Trouble, say

name = "CLUSTER_KUBECONFIG"


def kubeconfig() -> Path:
    return Path(os.environ["CLUSTER_KUBECONFIG"]).expanduser().absolute()


def obstacle() -> str | None:
    """Why it cannot serve, or None."""
    return None if os.environ.get("CLUSTER_KUBECONFIG") else "CLUSTER_KUBECONFIG is not set"


def runs() -> bool:
    """True, or Trouble: a cluster that the user names is used or nothing is."""
    if not kubeconfig().is_file():
        raise Trouble(f"CLUSTER_KUBECONFIG names {kubeconfig()}, which is not there")
    command = [str(tools.find("kubectl")), f"--kubeconfig={kubeconfig()}", "get", "--raw=/readyz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Trouble(f"the cluster of CLUSTER_KUBECONFIG does not answer: {done.stderr.strip()}")
    return True


def up() -> None:
    runs()


def down() -> None:
    say("the cluster of CLUSTER_KUBECONFIG is left as it is")


def build(image: str, dockerfile: Path, context: Path) -> None:
    engine.build(_builder(), image, dockerfile, context)


def load(image: str) -> None:
    """Push the image to the registry that its name begins with."""
    if image.startswith("localhost/"):
        raise Trouble("your cluster pulls images from a registry: set CLUSTER_REGISTRY to one that you may push to")
    done = subprocess.run([_builder(), "push", image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{image} could not be pushed: {done.stderr[-2000:]}")


def _builder() -> str:
    if found := engine.running():
        return found
    debian.install(debian.missing(debian.IMAGES))
    return "buildah" if shutil.which("buildah") else "docker"
