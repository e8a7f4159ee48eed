"""Paths that must not lead out of the workspace, and files that are written whole or not at all."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from claude_worker import tree
from claude_worker.openai.errors import ApiError

SECRET = "of another conversation"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("print()")
    (folder / "leaves").symlink_to(outside)
    (folder / "leaf").symlink_to(outside / "secret")
    (folder / "src" / "up").symlink_to("../..")
    return folder


def read(root: Path, path: str) -> bytes:
    fd, found = tree.open_file(root, path)
    with os.fdopen(fd, "rb") as file:
        data = file.read()
    assert len(data) == found.st_size
    return data


def write(root: Path, path: str, data: bytes = b"new") -> bool:
    with tree.told(path):
        draft = tree.Draft(root, tree.split(path))
        try:
            draft.write(data)
            return draft.commit()
        finally:
            draft.close()


@pytest.mark.parametrize("path", [
    "", "/", "/etc/passwd", "..", "../outside/secret", "src/../../outside/secret", "src/..", ".", "./src/main.py",
    "src//main.py", "src/", "src/main.py/", "src/\0", "\0", "x" * 256, "é" * 128, "/".join(["a"] * 129),
    "/".join(["x" * 200] * 21), "\ud800",
])  # fmt: skip
def test_a_path_that_is_none(root: Path, path: str) -> None:
    for act in (read, write):
        with pytest.raises(ApiError) as raised:
            act(root, path)
        assert (raised.value.status, raised.value.code, raised.value.param) == (400, "invalid_path", "path")


@pytest.mark.parametrize("path", ["leaves/secret", "src/up/outside/secret", "leaf", "src/main.py/x"])
def test_no_link_is_followed_to_be_read(root: Path, path: str) -> None:
    with pytest.raises(ApiError) as raised:
        read(root, path)
    assert (raised.value.status, raised.value.code) == (400, "invalid_path")


@pytest.mark.parametrize("path", ["leaves/secret", "leaves/new", "src/up/outside/secret", "leaves/new/folder/file"])
def test_no_link_is_followed_to_be_written(root: Path, outside: Path, path: str) -> None:
    with pytest.raises(ApiError):
        write(root, path)
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == SECRET


def test_a_link_that_is_written_is_replaced(root: Path, outside: Path) -> None:
    assert not write(root, "leaf")
    assert not (root / "leaf").is_symlink()
    assert read(root, "leaf") == b"new"
    assert (outside / "secret").read_text() == SECRET


def test_a_folder_that_becomes_a_link_on_the_way(root: Path, outside: Path) -> None:
    """Opened before the swap, the folder is still the one that was there; after it, the link is refused."""
    draft = tree.Draft(root, ("src", "secret"))
    (root / "src").rename(root / "moved")
    (root / "src").symlink_to(outside)
    draft.write(b"new")
    assert draft.commit()
    draft.close()
    assert (root / "moved" / "secret").read_bytes() == b"new"
    assert (outside / "secret").read_text() == SECRET
    with pytest.raises(ApiError):
        read(root, "src/secret")


def test_a_folder_that_is_swapped_while_it_is_walked(root: Path, outside: Path) -> None:
    seen = []
    for entry in tree.walk(root):
        seen.append(entry.path)
        if entry.path == "src":
            (root / "src").rename(root / "zzz")
            (root / "src").symlink_to(outside)
    assert not any("secret" in path for path in seen)


def test_a_file_that_is_swapped_for_a_link_while_it_is_walked(root: Path, outside: Path) -> None:
    entry = next(e for e in tree.walk(root) if e.path == "src/main.py")
    parent = os.open(root / "src", os.O_RDONLY)
    (root / "src" / "main.py").unlink()
    (root / "src" / "main.py").symlink_to(outside / "secret")
    assert tree.Entry(entry.path, entry.name, entry.stat, parent).open() is None
    os.close(parent)


def test_the_root_itself_is_no_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(ApiError):
        read(tmp_path / "link", "src/main.py")


def test_what_is_no_file(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(ApiError) as raised:
        read(root, "pipe")
    assert raised.value.code == "not_a_file"
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{short}/socket")
        with pytest.raises(ApiError) as raised:
            read(Path(short), "socket")
    assert raised.value.code == "not_a_file"
    for act in (read, write):
        with pytest.raises(ApiError) as raised:
            act(root, "src")
        assert (raised.value.status, raised.value.code) == (409, "is_a_folder")


def test_what_is_not_there(root: Path) -> None:
    for path in ("nothing", "no/thing"):
        with pytest.raises(ApiError) as raised:
            read(root, path)
        assert (raised.value.status, raised.value.code) == (404, "file_not_found")


def test_what_may_not_be_read(root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (root / "src" / "main.py").chmod(0)
    with pytest.raises(ApiError) as raised:
        read(root, "src/main.py")
    assert (raised.value.status, raised.value.code) == (403, "permission_denied")


def test_a_new_file_and_its_folders(root: Path) -> None:
    assert write(root, "a/b/c.txt")
    assert not write(root, "a/b/c.txt", b"again")
    assert read(root, "a/b/c.txt") == b"again"
    assert os.listdir(root / "a" / "b") == ["c.txt"]


def test_permissions_stay(root: Path) -> None:
    (root / "run").write_text("")
    (root / "run").chmod(0o4755)
    write(root, "run")
    assert stat.S_IMODE((root / "run").stat().st_mode) == 0o755


def test_until_it_is_committed_the_old_one_is_there(root: Path) -> None:
    draft = tree.Draft(root, ("src", "main.py"))
    draft.write(b"half")
    assert read(root, "src/main.py") == b"print()"
    draft.close()
    assert sorted(os.listdir(root / "src")) == ["deep", "main.py", "up"]


def test_the_longest_names_and_strange_ones(root: Path) -> None:
    for name in ("x" * 255, "line\nbreak", os.fsdecode(b"not-utf8-\xff"), " ", "-rf", "ü/ü"):
        assert write(root, name)
        assert read(root, name) == b"new"


def paths(root: Path, **how: object) -> list[str]:
    return [entry.path for entry in tree.walk(root, **how)]  # type: ignore[arg-type]


def test_a_walk_can_be_taken_up_again_anywhere(root: Path) -> None:
    (root / "src-2").mkdir()
    (root / "src" / "deep" / "x").write_text("")
    everything = paths(root)
    assert everything == [
        "leaf", "leaves", "src", "src/deep", "src/deep/x", "src/main.py", "src/up", "src-2",
    ]  # fmt: skip
    for i, path in enumerate(everything):
        assert paths(root, after=path.split("/")) == everything[i + 1 :]
    assert paths(root, after=["src", "f"]) == everything[5:]
    assert paths(root, under=["src"], after=["src", "deep"]) == ["src/deep/x", "src/main.py", "src/up"]
    assert paths(root, keep=lambda path: path != "src/deep") == [p for p in everything if "deep" not in p]


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    read(root, "src/main.py")
    write(root, "src/x")
    for path in ("leaf", "src", "nothing", "leaves/x"):
        with pytest.raises(ApiError):
            read(root, path)
    walking = tree.walk(root)
    next(walking)
    next(entry for entry in walking if entry.path == "src/deep")
    del walking
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_deeper_than_anybody_needs(root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(tree.DEPTH_MAX + 20):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert max(path.count("/") for path in paths(root)) == tree.DEPTH_MAX - 1
