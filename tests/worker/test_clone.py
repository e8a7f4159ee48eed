"""A workspace from git: with git itself, and a server that asks for a password."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import git_server
from claude_crds.git import parse
from claude_worker import clone
from claude_worker.clone import CloneError, CloneSettings
from git_certificate import certificate

PASSWORD = "a-password-that-nobody-else-has"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Host:
    """The server, and the folder with the credential for it."""

    port: int
    credentials: Path
    first: str
    second: str
    said: io.StringIO = field(default_factory=io.StringIO)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/repo.git"

    def settings(self, volume: Path, ref: str = "", **more: Any) -> CloneSettings:
        git = f"{self.url}#{ref}" if ref else self.url
        return CloneSettings(**{
            "volume_dir": str(volume), "git": git, "credentials": str(self.credentials), "timeout": 60.0, **more
        })  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("git")
    made = certificate("127.0.0.1")
    credentials = folder / "credentials"
    credentials.mkdir()
    for name, text in {"username": "reader", "password": PASSWORD + "\n", "ca.crt": made.authority}.items():
        (credentials / name).write_text(text)
    (folder / "cert").write_text(made.certificate)
    (folder / "key").write_text(made.key)
    first, second = git_server.make(folder)
    server = git_server.server(folder, str(folder / "cert"), str(folder / "key"), 0, "reader", PASSWORD)
    serving = Host(server.server_address[1], credentials, first, second)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with contextlib.redirect_stdout(serving.said):
        thread.start()
        yield serving
        server.shutdown()
        thread.join()
        server.server_close()


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'crds'}:{ROOT / 'worker-image'}"}


def cloned(settings: CloneSettings) -> str:
    """`clone.ensure` as the program calls it: the helper reads its settings from the environment."""
    given = environ() | {
        "VOLUME_DIR": settings.volume_dir, "WORKSPACE_GIT": settings.git,
        "WORKSPACE_GIT_CREDENTIALS": settings.credentials,
    }  # fmt: skip
    home = settings.volume.parent / "home"
    home.mkdir(exist_ok=True)
    return clone.ensure(settings, clone.environment(settings, given, str(home)), sleep=lambda _: None)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def everything(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def test_the_default_branch(host: Host, volume: Path) -> None:
    assert cloned(host.settings(volume)) == f"Cloned {host.url} at {host.second}."
    workspace = volume / "workspace"
    assert (workspace / "README.md").read_text() == git_server.SECOND
    assert git(workspace, "branch", "--show-current") == "main"
    assert git(workspace, "remote", "get-url", "origin") == host.url
    assert json.loads((volume / "git.json").read_text())["commit"] == host.second
    assert sorted(p.name for p in volume.iterdir()) == ["git.json", "workspace"]


def test_branches_tags_and_commits(host: Host, tmp_path: Path) -> None:
    for ref, commit in {"feature": "", "v1": host.first, host.first: host.first, host.second: host.second}.items():
        volume = tmp_path / ref
        volume.mkdir()
        assert f"#{ref} at {commit}" in cloned(host.settings(volume, ref))
        assert (volume / "workspace/feature.txt").exists() == (ref == "feature")
        if commit:
            assert git(volume / "workspace", "rev-parse", "HEAD") == commit


def test_a_repository_of_the_longer_kind_of_ids(tmp_path: Path) -> None:
    into = tmp_path / "w"
    first, *_ = clone.commands(parse("https://h.example/a#" + "0" * 64), 0, into)
    git(tmp_path, *first)
    assert git(into, "rev-parse", "--show-object-format") == "sha256"


@pytest.mark.parametrize("by_id", [False, True])
def test_depth(host: Host, volume: Path, by_id: bool) -> None:
    cloned(host.settings(volume, host.second if by_id else "main", depth=1))
    assert git(volume / "workspace", "rev-list", "--count", "HEAD") == "1"


def test_nothing_of_the_credential_is_left(host: Host, volume: Path) -> None:
    cloned(host.settings(volume, host.first))
    found = everything(volume)
    assert PASSWORD.encode() not in found
    assert b"credential" not in (volume / "workspace/.git/config").read_bytes()
    assert b"reader" not in found


def test_git_itself_gets_no_credential_in_arguments_or_environment(
    host: Host, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    stand_in = tmp_path / "bin/git"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {tmp_path}/seen\nexec {real} "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    cloned(host.settings(volume))
    seen = (tmp_path / "seen").read_text()
    assert "clone --quiet" in seen
    assert PASSWORD not in seen


def test_what_is_there_is_left_alone(host: Host, volume: Path) -> None:
    (volume / "workspace").mkdir()
    (volume / "workspace/mine.txt").write_text("mine")
    assert "left as it is" in cloned(host.settings(volume))
    assert sorted(p.name for p in volume.rglob("*")) == ["mine.txt", "workspace"]


@pytest.mark.parametrize("sign", ["git.json", "state.json"])
def test_a_conversation_that_has_begun_gets_no_files(host: Host, volume: Path, sign: str) -> None:
    (volume / sign).write_text("{}")
    assert "left as it is" in cloned(host.settings(volume))
    assert not (volume / "workspace").exists()


def test_a_link_in_the_workspaces_place_is_not_followed(host: Host, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (volume / "workspace").symlink_to(tmp_path / "elsewhere")
    assert "left as it is" in cloned(host.settings(volume))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_killed_clone_has_left_is_begun_anew(host: Host, volume: Path) -> None:
    (volume / "workspace").mkdir()
    (volume / "workspace.cloning/.git").mkdir(parents=True)
    cloned(host.settings(volume))
    assert (volume / "workspace/README.md").exists()
    assert not (volume / "workspace.cloning").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"git": "{url}#no-such-branch"}, "Remote branch no-such-branch not found"),
        ({"git": "{url}#" + "0" * 40}, "0" * 40),
        ({"git": "{base}/other.git"}, "not found"),
        ({"git": "{base}/moved/repo.git"}, "301"),
        ({"credentials": "{empty}"}, "certificate"),
    ],
)
def test_why_it_failed_in_gits_own_words(
    host: Host, volume: Path, tmp_path: Path, change: dict[str, str], told: str
) -> None:
    base = f"https://127.0.0.1:{host.port}"
    changed = {k: v.format(url=host.url, base=base, empty=tmp_path) for k, v in change.items()}
    with pytest.raises(CloneError) as caught:
        cloned(host.settings(volume, **changed))
    text = str(caught.value)
    assert text.startswith(f"The workspace could not be cloned from {base}")
    assert told in text
    assert "\n" not in text
    assert [p.name for p in volume.iterdir()] == []


@pytest.mark.parametrize(
    ("password", "told"), [("wrong", "Authentication failed"), ("", "It wants a credential"), ("a\nb", "credential")]
)
def test_a_wrong_or_missing_password(host: Host, volume: Path, tmp_path: Path, password: str, told: str) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "ca.crt").write_text((host.credentials / "ca.crt").read_text())
    (given / "password").write_text(password)
    with pytest.raises(CloneError, match=told) as caught:
        cloned(host.settings(volume, credentials=str(given)))
    assert "wrong" not in str(caught.value)


def test_it_is_tried_again_when_the_host_does_not_answer(volume: Path) -> None:
    pauses: list[float] = []
    settings = CloneSettings(volume_dir=str(volume), git="https://127.0.0.1:1/repo.git", timeout=60.0)
    with pytest.raises(CloneError, match=r"127\.0\.0\.1"):
        clone.ensure(settings, environ(), sleep=pauses.append)
    assert len(pauses) == 2


def test_a_clone_that_does_not_end_is_ended(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "bin/git"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nexec sleep 600\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    settings = CloneSettings(volume_dir=str(volume), git="https://127.0.0.1:1/repo.git", timeout=0.1)
    with pytest.raises(CloneError, match="not done in time"):
        clone.ensure(settings, dict(os.environ))


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("protocol=https\nhost=git.example.com\npath=x\n", True),
        ("protocol=https\nhost=evil.example.com\n", False),
        ("protocol=http\nhost=git.example.com\n", False),
        ("protocol=https\nhost=git.example.com:8443\n", False),
        ("", False),
    ],
)
def test_the_credential_is_for_its_host_only(host: Host, asked: str, answered: bool) -> None:
    settings = CloneSettings(git="https://git.example.com/a/b", credentials=str(host.credentials))
    expected = f"username=reader\npassword={PASSWORD}\n" if answered else ""
    assert clone.credential(settings, asked) == expected


def test_what_git_said_holds_no_credential() -> None:
    text = clone.said("Cloning into 'x'...\nfatal: unable to access 'https://me:secret@h.example/x/': no\n\n")
    assert text == "fatal: unable to access 'https://h.example/x/': no"


def test_no_argument_of_git_can_be_an_option(tmp_path: Path) -> None:
    for git, into in [(parse("https://h.example/a#b"), tmp_path), (parse("https://h.example/a#" + "0" * 40), tmp_path)]:
        for command in clone.commands(git, 0, into):
            free = [a for a in command if a in (git.url, git.ref)]
            assert not any(a.startswith("-") for a in free)
            assert git.url not in command or "--" in command[: command.index(git.url)]


def run(volume: Path, log: Path, **more: str) -> subprocess.CompletedProcess[str]:
    given = environ() | {"VOLUME_DIR": str(volume), "TERMINATION_LOG": str(log), **more}
    command = [sys.executable, "-m", "claude_worker.clone"]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


def test_the_program_says_what_it_did(host: Host, volume: Path, tmp_path: Path) -> None:
    given = {"WORKSPACE_GIT": host.url, "WORKSPACE_GIT_CREDENTIALS": str(host.credentials)}
    done = run(volume, tmp_path / "log", **given)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "log").read_text() == f"Cloned {host.url} at {host.second}." == done.stdout.strip()
    assert run(volume, tmp_path / "log", **given).returncode == 0
    assert "left as it is" in (tmp_path / "log").read_text()


def test_the_program_says_what_went_wrong(host: Host, volume: Path, tmp_path: Path) -> None:
    done = run(volume, tmp_path / "log", WORKSPACE_GIT=f"{host.url}#nowhere",
               WORKSPACE_GIT_CREDENTIALS=str(host.credentials))  # fmt: skip
    assert done.returncode == 1
    assert "Remote branch nowhere not found" in (tmp_path / "log").read_text()
    assert PASSWORD not in done.stdout + done.stderr


def test_an_address_with_a_password_is_refused_and_not_repeated(volume: Path, tmp_path: Path) -> None:
    done = run(volume, tmp_path / "log", WORKSPACE_GIT="https://me:secret@h.example/x")
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr + (tmp_path / "log").read_text()
