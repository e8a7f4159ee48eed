"""A store with conversations in it, for the tests of what it keeps and deletes."""

from __future__ import annotations

from pathlib import Path

from claude_router.local.store import Store
from claude_router.local.volumes import Volume
from router.local.harness import key


async def claimed(store: Store, conversation: str = "one") -> Volume:
    volume = store.volumes.create()
    await store.claim(key(conversation), volume)
    return volume


def reopened(store: Store, workspace_dir: Path | None = None) -> Store:
    store.close()
    return Store.open(store.root, workspace_dir=workspace_dir)


def record_file(store: Store, conversation: str = "one") -> Path:
    return store.root / "sessions" / f"{key(conversation).name}.json"
