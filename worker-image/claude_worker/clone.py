"""A new conversation's workspace, cloned from git: `python -m claude_worker.clone`, or by a worker as it starts.

A pod's init container runs the program, and alone has the credential: git asks this module for it (`credential`), so
that it is in no argument, environment or configuration, and no other host is given it. The clone grows beside the
workspace and takes its place in one step. A workspace with files, or of a conversation that has begun, is left as it
is; what is on the volume then may be anybody's, and git never looks at it.

What was done, or went wrong, is one line; a pod's status has it (`TERMINATION_LOG`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from claude_crds.git import GitSource, address, parse
from claude_crds.settings import SettingsError, integer, load, milliseconds, setting, text
from claude_worker.ledger import VolumeError
from claude_worker.volume import lock_volume

_PARTIAL = ".cloning"
_MARKER = "git.json"
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_MESSAGE_MAX = 1500
_SHA256_DIGITS = 64
_HOPELESS = re.compile(
    r"could not read|authentication failed|not found|remote branch|remote ref|certificate|redirect"
    r"|returned error: [34]|not done in time|no space left|quota|not our ref|exceeded|reference is not a tree",
    re.IGNORECASE,
)
"""What git says when it would say the same again."""
_NOISE = re.compile(r"^(Cloning into|remote: (Enumerating|Counting|Compressing|Total)|hint:|warning:)")
_USERINFO = re.compile(r"(https?://)[^/\s@]*@")


class CloneError(Exception):
    """The workspace could not be cloned: one line, without anything secret."""


@dataclass(frozen=True, slots=True)
class CloneSettings:
    """What is cloned, and to where."""

    volume_dir: str = setting("VOLUME_DIR", "", text(), "the session's volume")
    workspace_dir: str = setting("WORKSPACE_DIR", "", text(), "where Claude works; default: `workspace` in the volume")
    git: str = setting(
        "WORKSPACE_GIT", "", address(), "what is cloned into a new workspace; empty: nothing", secret=True
    )
    depth: int = setting("WORKSPACE_GIT_DEPTH", 0, integer(0, 2**31 - 1), "commits of history; 0: all")
    credentials: str = setting(
        "WORKSPACE_GIT_CREDENTIALS", "", text(), "folder with username, password and ca.crt; empty: this user's own git"
    )
    timeout: float = setting("WORKSPACE_GIT_TIMEOUT_MS", 600.0, milliseconds(1), "longest clone")

    @property
    def source(self) -> GitSource | None:
        """What is cloned; None: nothing."""
        return parse(self.git) if self.git else None

    @property
    def volume(self) -> Path:
        return Path(self.volume_dir)

    @property
    def workspace(self) -> Path:
        return Path(self.workspace_dir) if self.workspace_dir else self.volume / "workspace"


def ensure(
    settings: CloneSettings,
    environ: Mapping[str, str],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Clone what is to be cloned, if it is due. Returns what was done. Raises CloneError. Blocks."""
    source = settings.source
    if source is None or not due(settings):
        return "The workspace is there already, and is left as it is."
    partial = settings.workspace.parent / f"{settings.workspace.name}{_PARTIAL}"
    try:
        _clone(settings, source, partial, environ, clock, sleep)
        commit = _git(["-C", str(partial), "rev-parse", "HEAD"], environ, 30.0).strip()
        # An empty folder gives way; one that has got files, or is a link by now, does not.
        os.replace(partial, settings.workspace)
    except OSError as error:
        raise CloneError(f"The workspace could not be put in its place: {error.strerror or error}.") from error
    finally:
        _remove(partial)
    told = f"Cloned {source} at {commit}."
    marker = {"url": source.url, "ref": source.ref, "commit": commit}
    (settings.volume / _MARKER).write_text(json.dumps(marker))
    return told


def due(settings: CloneSettings) -> bool:
    """Whether nothing has begun here: no clone, no conversation, no file."""
    if any((settings.volume / name).exists() for name in (_MARKER, "state.json")):
        return False
    if settings.workspace.is_symlink():
        return False
    try:
        with os.scandir(settings.workspace) as found:
            return next(found, None) is None
    except FileNotFoundError:
        return True


def _clone(
    settings: CloneSettings,
    git: GitSource,
    partial: Path,
    environ: Mapping[str, str],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    until = clock() + settings.timeout
    for attempt in range(1, _ATTEMPTS + 1):
        _remove(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            for command in commands(git, settings.depth, partial):
                _git([*_options(settings), *command], environ, until - clock())
            return
        except CloneError as error:
            if attempt == _ATTEMPTS or _HOPELESS.search(str(error)) or clock() + _PAUSE_SECONDS >= until:
                raise CloneError(f"The workspace could not be cloned from {git}: {error}") from error
            sleep(_PAUSE_SECONDS)


def commands(git: GitSource, depth: int, into: Path) -> list[list[str]]:
    """git's arguments, without the options that go before them. A branch or tag is found by git itself."""
    shallow = [f"--depth={depth}"] if depth else []
    if not git.is_commit:
        ref = [f"--branch={git.ref}"] if git.ref else []
        return [["clone", "--quiet", "--no-recurse-submodules", *shallow, *ref, "--", git.url, str(into)]]
    at = ["-C", str(into)]
    heads = [] if depth else ["+refs/heads/*:refs/remotes/origin/*"]
    kind = ["--object-format=sha256"] if len(git.ref) == _SHA256_DIGITS else []
    return [
        ["init", "--quiet", *kind, "--", str(into)],
        [*at, "remote", "add", "--", "origin", git.url],
        [*at, "fetch", "--quiet", *shallow, "origin", git.ref, *heads],
        [*at, "checkout", "--quiet", "--detach", git.ref],
    ]


def _options(settings: CloneSettings) -> list[str]:
    """For one call each: nothing of it stays in the repository."""
    chosen = [
        ("protocol.allow", "never"),
        ("protocol.https.allow", "always"),
        # A redirect could lead to a host that nobody has allowed.
        ("http.followRedirects", "false"),
        ("http.lowSpeedLimit", "1"),
        ("http.lowSpeedTime", "60"),
    ]
    if settings.credentials:
        chosen += [
            ("credential.helper", ""),  # takes every other one off the list
            ("credential.helper", f"!{sys.executable} -m claude_worker.clone credential"),
        ]
    return [part for name, value in chosen for part in ("-c", f"{name}={value}")]


def _git(arguments: Sequence[str], environ: Mapping[str, str], seconds: float) -> str:
    """git's standard output. Raises CloneError with what it said."""
    try:
        done = subprocess.run(
            ["git", *arguments], env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=max(seconds, 1.0), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CloneError("git was not done in time.") from error
    except OSError as error:
        raise CloneError(f"git cannot be run: {error.strerror or error}.") from error
    if done.returncode:
        raise CloneError(said(done.stderr) or f"git ended with status {done.returncode}.")
    return done.stdout


def said(standard_error: str) -> str:
    """What git had to say, on one line, without what could be a credential in an address."""
    lines = [line.strip() for line in standard_error.splitlines()]
    text = " ".join(line for line in lines if line and not _NOISE.match(line))
    if "could not read Username" in text:
        text += " (It wants a credential, and has got none for this host.)"
    return _USERINFO.sub(r"\1", text)[:_MESSAGE_MAX]


def environment(settings: CloneSettings, environ: Mapping[str, str], home: str) -> dict[str, str]:
    """git's environment: it asks nobody, and where a credential is given it knows no other one."""
    ours = {**environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C.UTF-8"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_TRACE", "GIT_TRACE_CURL", "GIT_CURL_VERBOSE"):
        ours.pop(name, None)
    if settings.credentials:
        ours |= {"HOME": home, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        ours |= {"GIT_ASKPASS": "", "SSH_ASKPASS": ""}
        if (authority := Path(settings.credentials) / "ca.crt").is_file():
            ours["GIT_SSL_CAINFO"] = str(authority)
    return ours


def credential(settings: CloneSettings, asked: str) -> str:
    """The answer to git, which asks for a credential (`protocol=…`, `host=…`); empty: there is none for that host."""
    wanted = dict(line.split("=", 1) for line in asked.splitlines() if "=" in line)
    source, host = settings.source, wanted.get("host", "").lower()
    if source is None or wanted.get("protocol") != "https" or host != source.host:
        return ""
    folder = Path(settings.credentials)
    found: dict[str, str] = {}
    for name in ("username", "password"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found[name] = (folder / name).read_text().strip()
    password = found.get("password", "")
    # With a token as the password, hosts take any name.
    user = found.get("username") or "git"
    if not password or any(c in f"{user}{password}" for c in "\n\r\0"):
        return ""
    return f"username={user}\npassword={password}\n"


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def clone_here(environ: Mapping[str, str]) -> str:
    """Clone by these variables. Returns what was done. Raises CloneError and SettingsError. Blocks."""
    settings = load(CloneSettings, environ)
    if settings.source is None:
        return ""
    with tempfile.TemporaryDirectory() as home:
        return ensure(settings, environment(settings, environ, home))


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    if arguments[:1] == ["credential"]:
        if arguments[1:] == ["get"]:
            sys.stdout.write(credential(load(CloneSettings, os.environ), sys.stdin.read()))
        return 0
    try:
        settings = load(CloneSettings, os.environ)
        if not settings.volume_dir:
            raise SettingsError("VOLUME_DIR is not set: it must name the session's volume")
        with lock_volume(settings.volume):
            told, status = clone_here(os.environ), 0
    except (CloneError, SettingsError, VolumeError, OSError) as error:
        told, status = str(error), 1
    print(told, file=sys.stderr if status else sys.stdout)
    if log := os.environ.get("TERMINATION_LOG"):
        with contextlib.suppress(OSError):
            Path(log).write_text(told)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
