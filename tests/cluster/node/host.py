"""What a node changes on its host, and taking it back: a link, a rule, a cgroup, a few settings of the kernel.

Everything else lies in the node's own namespaces and goes with its processes. Both functions may be called anytime.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from cluster.node.debian import PATH
from cluster.node.network import ALL, HOST_ADDRESS, HOST_LINK, LINK_BITS, NODE_ADDRESS, NODE_LINK
from cluster.node.places import Trouble, cache, say

_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP = "claude-code-api"
"""As in etc/kubelet.yaml."""
_KERNEL = Path("/proc/sys")
_BOOT = "kernel/random/boot_id"
# The kubelet sets the first ones and has no option not to.
KUBELET_SETS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
WE_SET = {
    "net/ipv4/ip_forward": "1",  # pods reach the world beyond the host
    "fs/inotify/max_user_instances": "8192",  # the default, 128, is used up by a dozen pods
}
_TABLE = "claude-code-api"
_RULES = f"""\
table ip {_TABLE} {{}}
delete table ip {_TABLE}
table ip {_TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr {ALL} oifname != "{HOST_LINK}" masquerade
  }}
}}
"""


def linked() -> bool:
    """Whether there is a node's wire."""
    return Path("/sys/class/net", HOST_LINK).exists()


def prepare(pid: int) -> None:
    """Wire the network namespace of process `pid` to the host, and note what the kernel's settings were."""
    settings = {name: _read(name) for name in (_BOOT, *KUBELET_SETS, *WE_SET)}
    _notes().write_text(json.dumps(settings))
    for name, value in WE_SET.items():
        if int(settings[name] or 0) < int(value):
            (_KERNEL / name).write_text(value)
    link = f"""\
link add {HOST_LINK} type veth peer name {NODE_LINK} netns {pid}
addr add {HOST_ADDRESS}/{LINK_BITS} dev {HOST_LINK}
link set {HOST_LINK} up
route add {ALL} via {NODE_ADDRESS}
"""
    _run("ip", "-batch", "-", text=link)
    _run("nft", "--file", "-", text=_RULES)
    for folder in _hierarchies():
        (folder / _CGROUP).mkdir(exist_ok=True)


def restore() -> None:
    """Take back what `prepare` and the kubelet did, in whatever state it is. The node's processes have ended."""
    _remove_link()
    if _table_exists():
        _run("nft", "delete", "table", "ip", _TABLE)
    for folder in _hierarchies():
        _remove_cgroup(folder / _CGROUP)
    if _notes().exists():
        settings = json.loads(_notes().read_text())
        # Since a reboot the settings are what the machine's owner wants.
        same_boot = settings.pop(_BOOT) == _read(_BOOT)
        for name, value in settings.items():
            if same_boot and value is not None and _read(name) != value:
                (_KERNEL / name).write_text(value)
        _notes().unlink()


def _notes() -> Path:
    # Not in the run folder, which somebody may remove under a running node.
    return cache() / "kernel-settings.json"


def _remove_link() -> None:
    # The kernel removes it too, some time after the node's last process has ended.
    if linked():
        try:
            _run("ip", "link", "delete", HOST_LINK)
        except Trouble:
            if linked():
                raise


def _hierarchies() -> list[Path]:
    """The root of each cgroup hierarchy: one in version 2, one a controller in version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [folder for folder in _CGROUPS.iterdir() if (folder / "cgroup.procs").exists() and not folder.is_symlink()]


def _remove_cgroup(folder: Path) -> None:
    for inner, _, _ in os.walk(folder, topdown=False):
        # A process that has just ended may still be counted for a moment.
        for _ in range(100):
            try:
                Path(inner).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
        else:
            say(f"left behind, still in use: {inner}")


def _table_exists() -> bool:
    return _TABLE in _run("nft", "list", "tables", "ip").split()


def _read(name: str) -> str | None:
    try:
        return (_KERNEL / name).read_text().strip()
    except OSError:
        return None


def _run(*command: str, text: str = "") -> str:
    env = os.environ | {"PATH": PATH}
    done = subprocess.run(command, input=text, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
