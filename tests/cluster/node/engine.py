"""Building images from a Dockerfile, by a container engine that runs here or by buildah, which needs none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cluster.node.places import ROOT, Trouble, say


def running() -> str | None:
    """`docker` or `podman`, whichever answers; None if neither does."""
    for engine in ("docker", "podman"):
        if shutil.which(engine) and _quiet(engine, "info"):
            return engine
    return None


def has(engine: str, image: str) -> bool:
    """Whether the engine has the image, or can pull it."""
    if _quiet(engine, "image", "inspect", image):
        return True
    say(f"{engine}: pulling {image.partition('@')[0]} …")
    return _quiet(engine, "pull", image)


def build(engine: str, image: str, dockerfile: Path, context: Path) -> None:
    """Build `image` with `docker`, `podman` or `buildah`; what the engine says is shown if it fails."""
    if not dockerfile.is_file():
        raise Trouble(f"no such Dockerfile: {dockerfile}")
    if engine == "buildah":
        # The container test's own: it makes the base image when no registry answers.
        command = [str(ROOT / "tests/container/build.sh"), image, str(dockerfile), str(context)]
    else:
        command = [engine, "build", "--quiet", "--tag", image, "--file", str(dockerfile), str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{image} could not be built:\n{(done.stdout + done.stderr)[-4000:]}")


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
