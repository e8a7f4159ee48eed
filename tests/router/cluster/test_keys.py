"""API keys from a mounted Secret."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from claude_router.auth import ApiKeys
from claude_router.cluster import keys as module
from claude_router.cluster.keys import KeyFolder
from claude_worker.openai.errors import ApiError


def publish(root: Path, number: int, **files: str) -> None:
    """As the kubelet does it: a folder of the new version, and one symbolic link that is swapped."""
    version = root / f"..version-{number}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text)
    (root / "..new").symlink_to(version.name)
    (root / "..new").replace(root / "..data")
    for name in files:
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"..data/{name}")
    for path in root.iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()


def passes(keys: ApiKeys, key: str) -> bool:
    try:
        keys.check({b"authorization": f"Bearer {key}".encode()})
    except ApiError as error:
        return error.status != 401
    return True


def test_a_secrets_keys_and_their_changes(tmp_path: Path) -> None:
    publish(tmp_path, 1, alice="key-of-alice\n", bob="key-of-bob-1")
    folder = KeyFolder(tmp_path)
    folder.look()
    assert [passes(folder.keys, k) for k in ("key-of-alice", "key-of-bob-1", "key-of-eve-1")] == [True, True, False]
    publish(tmp_path, 2, alice="key-of-alice", bob="key-of-bob-2")
    folder.look()
    assert [passes(folder.keys, k) for k in ("key-of-alice", "key-of-bob-1", "key-of-bob-2")] == [True, False, True]
    publish(tmp_path, 3, alice="key-of-alice")
    folder.look()
    assert [passes(folder.keys, k) for k in ("key-of-alice", "key-of-bob-2")] == [True, False]


@pytest.mark.parametrize("content", ["", "short", "two words here", "grüße-grüße"])
def test_an_invalid_key_is_left_out_and_not_shown(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, 1, good="key-number-one", bad=content)
    folder = KeyFolder(tmp_path)
    folder.look()
    assert passes(folder.keys, "key-number-one")
    assert "file bad" in caplog.text
    assert not content or content not in caplog.text


def test_a_folder_that_becomes_empty_or_goes_away_closes_the_endpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "keys"
    root.mkdir()
    (root / "a").write_text("key-number-one")
    folder = KeyFolder(root)
    folder.look()
    assert not folder.keys.open
    (root / "a").unlink()
    folder.look()
    with pytest.raises(ApiError):
        folder.keys.check({})
    assert not passes(folder.keys, "key-number-one")
    assert "no valid API key" in caplog.text
    root.rmdir()
    caplog.clear()
    for _ in range(3):
        folder.look()
    assert len(caplog.records) == 1
    assert not passes(folder.keys, "key-number-one")
    root.mkdir()
    (root / "a").write_text("key-number-two")
    folder.look()
    assert passes(folder.keys, "key-number-two")


def test_it_is_followed_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    publish(tmp_path, 1, a="key-number-one")
    folder = KeyFolder(tmp_path)
    replaced = threading.Event()
    folder.begin()
    real = folder.keys.replace

    def told(keys: list[str]) -> None:
        real(keys)
        replaced.set()

    monkeypatch.setattr(folder.keys, "replace", told)
    try:
        publish(tmp_path, 2, a="key-number-two")
        assert replaced.wait(10)
        assert passes(folder.keys, "key-number-two")
    finally:
        folder.end()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("key-number-one")
    (tmp_path / "a").chmod(0)
    folder = KeyFolder(tmp_path)
    folder.look()
    assert not passes(folder.keys, "key-number-one")
