"""Only what was created here is deleted, and all of it."""

from __future__ import annotations

from pathlib import Path

from claude_router.local.store import Store
from claude_router.local.volumes import OWNER
from router.local.harness import key
from router.local.stores import claimed, record_file, reopened


async def test_memory_and_record_go(store: Store) -> None:
    volume = await claimed(store)
    (volume.workspace / "file").write_text("x")
    await store.remove(key("one").name)
    assert not volume.path.exists()
    assert not record_file(store).exists()
    assert store.names("default") == []


async def test_no_link_is_followed(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    volume = await claimed(store)
    (volume.workspace / "link").symlink_to(outside)
    (volume.path / "claude").symlink_to(outside)
    await store.remove(key("one").name)
    assert not volume.path.exists()
    assert (outside / "precious").exists()


async def test_folders_without_permission_go(store: Store) -> None:
    volume = await claimed(store)
    deep = volume.workspace / "module" / "cache"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    for folder in (deep, deep.parent):
        folder.chmod(0o500)
    await store.remove(key("one").name)
    assert not volume.path.exists()


async def test_own_workspaces_below_workspace_dir_go(root: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    store = Store.open(root, workspace_dir=work)
    volume = await claimed(store)
    spare = store.volumes.create()
    assert volume.workspace == work / volume.id
    (work / "of the user").mkdir()
    await store.remove(key("one").name)
    again = reopened(store, work)
    again.close()
    assert not spare.workspace.exists()
    assert [p.name for p in work.iterdir()] == ["of the user"]


async def test_a_shared_workspace_stays(root: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    store = Store.open(root, workspace_dir=work, per_conversation=False)
    volume = await claimed(store)
    assert volume.workspace == work
    (work / "precious").write_text("x")
    await store.remove(key("one").name)
    store.close()
    assert not volume.path.exists()
    assert (work / "precious").exists()


async def test_a_workspace_that_became_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    store = Store.open(root, workspace_dir=tmp_path / "work")
    volume = await claimed(store)
    volume.workspace.rmdir()
    volume.workspace.symlink_to(outside)
    (outside / "below").mkdir(mode=0o750)
    await store.remove(key("one").name)
    store.close()
    assert (outside / "precious").exists()
    assert (outside / "below").stat().st_mode & 0o777 == 0o750


async def test_a_workspace_stays_where_it_was_made(root: Path, tmp_path: Path) -> None:
    store = Store.open(root, workspace_dir=tmp_path / "work")
    volume = await claimed(store)
    again = reopened(store, tmp_path / "moved")
    assert again.volume(key("one").name) == volume
    again.close()


async def test_a_purge_cut_off_by_a_kill_is_not_undone(store: Store) -> None:
    volume = await claimed(store)
    (volume.path / OWNER).unlink()  # its first two steps
    record_file(store).unlink()
    again = reopened(store)
    try:
        assert again.records == {}
        assert not volume.path.exists()
    finally:
        again.close()
