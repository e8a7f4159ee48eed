"""A node from Go modules on this machine, without an engine or a registry.

It needs root on Linux, and Go for the first time. README.md here says how it is made and what it cannot do.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cluster.node import busybox, control, debian, engine, host, keys, tools
from cluster.node.components import COMPONENTS, FIRST
from cluster.node.network import HOST_LINK
from cluster.node.places import HERE, Trouble, cache, say

name = "bare node"

_TIMEOUT = 120.0
"""Seconds for each step of a boot: ten times what it takes on two busy cores."""
_LONGEST_SOCKET = 107 - len("/containerd.sock")


def run_folder() -> Path:
    """The state of a running node; `down` removes it."""
    return cache() / "node"


def obstacle() -> str | None:
    """Why there cannot be a node here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a bare node needs root on Linux"
    if tools.missing(tools.NODE) and shutil.which("go") is None:
        return "a bare node needs Go on the PATH, to be built"
    if (packages := debian.missing(debian.NODE, cni=True)) and not debian.installable():
        return f"a bare node needs {', '.join(packages)} installed"
    if subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True).returncode:
        return "a bare node needs the right to make namespaces"
    if len(str(run_folder())) > _LONGEST_SOCKET:
        return f"a bare node needs a shorter XDG_CACHE_HOME than {cache().parent}"
    return None


def kubeconfig() -> Path:
    return run_folder() / "kubeconfig"


def runs() -> bool:
    """Whether a node is up and whole: every part runs, and the API server is ready."""
    run = run_folder()
    if control.init(run) is None:
        return False
    try:
        status = control.ask(run, "status")
    except Trouble:
        return False
    return all(status.get(part, 0) is None for part in COMPONENTS) and _ready(run)


def up() -> None:
    """Boot a node; what an earlier one left is cleared first."""
    debian.install(debian.missing(debian.NODE, cni=True))
    tools.build(tools.NODE)
    down()
    if host.linked():
        raise Trouble(f"a node of another user or cache folder is up here (its link is {HOST_LINK}): end that first")
    run = run_folder()
    began = time.monotonic()
    try:
        _prepare(run)
        birth = control.Birth(run)
        host.prepare(birth.namespace)
        birth.wired()
        _boot(run)
    except BaseException:
        say(f"the node did not come up; its logs, until the next `up` or `down`: {run / 'log'}")
        _end(run)
        raise
    say(f"node up in {time.monotonic() - began:.1f} s")


def down() -> None:
    """End the node and remove all that it made but the binaries; nothing happens if there is none."""
    _end(run_folder())
    shutil.rmtree(run_folder(), ignore_errors=True)
    # What is left then is a mount or a file in use, which nobody should have to guess.
    if run_folder().exists():
        shutil.rmtree(run_folder())


def build(image: str, dockerfile: Path, context: Path) -> None:
    debian.install(debian.missing(debian.IMAGES))
    engine.build("buildah", image, dockerfile, context)


def load(image: str) -> None:
    """Bring an image from buildah's store to the node, without a copy on disk between them."""
    inspect = ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image]
    found = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if found.returncode:
        raise Trouble(f"no image {image} in buildah's store: build it first")
    mark = run_folder() / "images" / image.replace("/", "_")
    if mark.exists() and mark.read_text() == found.stdout:
        return
    began = time.monotonic()
    push = ["buildah", "push", "--quiet", image, f"docker-archive:/dev/stdout:{image}"]
    with subprocess.Popen(push, stdout=subprocess.PIPE) as pushing:
        assert pushing.stdout
        imported = _import(pushing.stdout.fileno())
    if pushing.returncode or imported.returncode:
        raise Trouble(f"{image} could not be brought to the node: {imported.stderr.decode()[-1000:]}")
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(found.stdout)
    say(f"loaded {image} in {time.monotonic() - began:.0f} s")


def _end(run: Path) -> None:
    if control.end(run) or run.exists():
        host.restore()


def _prepare(run: Path) -> None:
    """All that the node finds in its run folder."""
    run.mkdir(mode=0o700)
    for folder in ("bin", "log", "volumes", "var/lib", "var/log", "var/tmp"):
        (run / folder).mkdir(parents=True)
    (run / "var" / "run").symlink_to("/run")
    for program in tools.NODE:
        os.link(tools.path(program), run / "bin" / program)
    shutil.copytree(HERE / "etc", run / "etc")
    (run / "resolv.conf").write_text("".join(f"nameserver {a}\n" for a in _name_servers()))
    keys.make(run)


def _boot(run: Path) -> None:
    for part in FIRST:
        control.ask(run, "start", part)
    _wait(run, (run / "containerd.sock").exists, "containerd")
    imported = _import(busybox.archive())
    if imported.returncode:
        raise Trouble(f"containerd does not take an image: {imported.stderr.decode()[-1000:]}")
    _wait(run, lambda: _ready(run), "the API server")
    for part in COMPONENTS:
        control.ask(run, "start", part)
    _add_ons(run)


def _add_ons(run: Path) -> None:
    manifests = [path.read_text() for path in sorted((HERE / "addons").glob("*.yaml"))]
    text = "---\n".join(manifests)
    if not _name_servers():  # a resolver without a name server to ask does not start
        text = text.replace("        forward . /etc/resolv.conf\n", "")
    _kubectl("apply", "--server-side", "--filename", "-", text=text)
    limit = f"--timeout={_TIMEOUT:.0f}s"
    try:
        _kubectl("--namespace=kube-system", "wait", "--for=condition=Available", "deployment", "--all", limit)
        # Pods are refused until the controllers have made it.
        _kubectl("wait", "--for=create", "serviceaccount/default", limit)
    except Trouble as error:
        pods = _kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide")
        raise Trouble(f"{error}\n{pods}{_dead(run)}") from error


def _wait(run: Path, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if dead := _dead(run):
            raise Trouble(f"{what} is not there: {dead}")
        if time.monotonic() > deadline:
            raise Trouble(f"{what} is not there after {_TIMEOUT:.0f} s")
        time.sleep(0.05)


def _dead(run: Path) -> str:
    """The parts that have ended, with the end of their logs."""
    ended = {part: status for part, status in control.ask(run, "status").items() if status is not None}
    logs = {part: (run / "log" / f"{part}.log").read_text(errors="replace")[-1500:] for part in ended}
    return "".join(f"{part} ended with {ended[part]}:\n{logs[part]}\n" for part in ended)


def _ready(run: Path) -> bool:
    trust = ssl.create_default_context(cafile=str(run / "keys" / "ca.crt"))
    # Without the user's proxies, which do not know the node.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(f"{keys.SERVER}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _import(archive: bytes | int) -> subprocess.CompletedProcess[bytes]:
    """Give the node a tar of images: bytes, or a file descriptor to read it from."""
    socket = str(run_folder() / "containerd.sock")
    # Layers are wanted unpacked only; the packed ones may go.
    options = [
        "--address",
        socket,
        "--namespace",
        "k8s.io",
        "images",
        "import",
        "--local",
        "--discard-unpacked-layers",
        "-",
    ]
    command = [str(tools.path("ctr")), *options]
    if isinstance(archive, bytes):
        return subprocess.run(command, input=archive, capture_output=True, check=False)
    return subprocess.run(command, stdin=archive, capture_output=True, check=False)


def _kubectl(*arguments: str, text: str | None = None) -> str:
    command = [str(tools.path("kubectl")), f"--kubeconfig={kubeconfig()}", *arguments]
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    env["KUBECACHEDIR"] = str(run_folder() / "kubectl")
    done = subprocess.run(command, input=text, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _name_servers() -> list[str]:
    """The host's name servers; not one on loopback, which only the host itself can ask."""
    found: list[str] = []
    for file in (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf")):
        if file.exists() and not found:
            words = [line.split() for line in file.read_text().splitlines()]
            found = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and not _loopback(w[1])]
    return found


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True
