"""A conversation from one volume to another, and archives that are not one of ours."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from claude_worker import transfer
from claude_worker.ledger import Ledger
from worker.carriers import SESSION, Carrier, code_of, tree_of

UUID = "00000000-0000-4000-8000-00000000abcd"


def slug(path: Path) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in str(path))


@pytest.fixture
async def old(tmp_path: Path) -> Carrier:
    carrier = Carrier(tmp_path / "old")
    carrier.begin()
    project = f"projects/{slug(carrier.workspace)}"
    carrier.remember(f"{project}/{SESSION}.jsonl", "{}\n")
    carrier.remember(f"{project}/memory/MEMORY.md", "likes tea")
    carrier.remember(f"{project}/{SESSION}/tool-results/a.txt", "long")
    carrier.remember("file-history/x", "y")
    workspace = carrier.workspace
    (workspace / ".git").mkdir()
    (workspace / "uv.lock").write_text("a lock file of the user's")
    (workspace / "run").write_text("#!")
    (workspace / "run").chmod(0o755)
    os.utime(workspace / "run", (1_000_000, 1_000_000))
    (workspace / "out").symlink_to("/usr/bin/python3")
    (workspace / "in").symlink_to(workspace / "run")
    (workspace / "beside").symlink_to("run")
    return carrier


@pytest.fixture
async def new(tmp_path: Path) -> Carrier:
    carrier = Carrier(tmp_path / "new")
    carrier.remember(".claude.json", "its own")
    return carrier


async def archive_of(carrier: Carrier) -> bytes:
    answer = await carrier.client.get("/export")
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_everything_of_a_conversation_comes_along(old: Carrier, new: Carrier) -> None:
    answer = await new.client.put(f"/import?at={UUID}", content=await archive_of(old))
    assert answer.json() == {"imported": True}
    assert new.conversation.imported == [UUID]
    there, here = tree_of(old.workspace), tree_of(new.workspace)
    assert here.pop("in") == str(new.workspace / "run")
    assert there.pop("in") == str(old.workspace / "run")
    assert here == there
    found = (new.workspace / "run").stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o755, 1_000_000)
    assert (new.settings.volume / "ledger").read_bytes() == (old.settings.volume / "ledger").read_bytes()


async def test_memory_is_where_the_cli_looks_for_it(old: Carrier, new: Carrier) -> None:
    await new.client.put("/import", content=await archive_of(old))
    project = f"projects/{slug(new.workspace)}"
    assert {name for name, content in tree_of(new.settings.config_dir).items() if content is not None} == {
        ".claude.json", "file-history/x", f"{project}/{SESSION}.jsonl", f"{project}/memory/MEMORY.md",
        f"{project}/{SESSION}/tool-results/a.txt",
    }  # fmt: skip


async def test_what_the_old_one_cost_stays_its_own(old: Carrier, new: Carrier) -> None:
    await new.client.put("/import", content=await archive_of(old))
    state = Ledger(new.settings.volume).state
    assert (state.claude_session_id, state.turns, state.totals.cost_usd) == (SESSION, 0, 0)


async def test_no_credential_and_no_lock_leaves_the_volume(old: Carrier) -> None:
    secret = "sk-ant-very-secret"
    for name in (".credentials.json", ".claude.json", "backups/x", "settings.json", "session-env/x", "unknown/x"):
        old.remember(name, secret)
    old.remember("projects/x/write.lock", secret)
    (old.settings.volume / "lock").write_text(secret)
    (old.settings.volume / "owner.json").write_text(secret)
    (old.settings.config_dir / "projects" / "link").symlink_to(old.settings.config_dir / ".credentials.json")
    archive = await archive_of(old)
    assert secret.encode() not in archive
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        names = found.getnames()
    assert names[0] == "manifest.json"
    assert {name.split("/")[0] for name in names} == {"manifest.json", "state.json", "ledger", "claude", "workspace"}
    assert "claude/projects/link" not in names
    assert "workspace/uv.lock" in names


async def test_a_turn_is_waited_for(old: Carrier) -> None:
    async with old.conversation.slot:
        exporting = asyncio.create_task(archive_of(old))
        async for view in old.status.watch():
            if view["busy"]:
                break
        assert not exporting.done()
    assert await exporting


async def test_a_workspace_that_others_share_stays_where_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    carrier = Carrier(tmp_path / "a", workspace_dir=str(shared))
    carrier.begin()
    (shared / "file").write_text("x")
    other = Carrier(tmp_path / "b", workspace_dir=str(shared))
    assert (await other.client.put("/import", content=await archive_of(carrier))).status_code == 200
    broken = await Carrier(tmp_path / "c", workspace_dir=str(shared)).client.put("/import", content=b"x")
    assert broken.status_code == 400
    assert tree_of(shared) == {"file": b"x"}


async def test_a_workspace_of_its_own_elsewhere_comes_along(tmp_path: Path, new: Carrier) -> None:
    carrier = Carrier(tmp_path / "a", workspace_dir=str(tmp_path / "work" / "a"))
    carrier.begin()
    (carrier.workspace / "file").write_text("x")
    await new.client.put("/import", content=await archive_of(carrier))
    assert tree_of(new.workspace) == {"file": b"x"}


async def test_only_an_empty_volume_takes_one(old: Carrier, new: Carrier) -> None:
    archive = await archive_of(old)
    assert code_of(await old.client.put("/import", content=archive)) == (409, "conversation_exists")
    (new.workspace / "mine").write_text("x")
    assert code_of(await new.client.put("/import", content=archive)) == (409, "workspace_not_empty")
    assert tree_of(new.workspace) == {"mine": b"x"}
    assert not (new.settings.volume / "state.json").exists()


async def test_what_has_not_begun_cannot_be_exported(new: Carrier) -> None:
    assert code_of(await new.client.get("/export")) == (409, "conversation_empty")


async def test_a_place_to_go_on_that_is_no_message(new: Carrier) -> None:
    assert code_of(await new.client.put("/import?at=../x", content=b"")) == (400, "invalid_parameter")


async def test_a_large_file_needs_little_memory(old: Carrier, new: Carrier) -> None:
    with (old.workspace / "big").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        pieces = transfer.pack(old.settings)
        held = b""

        def read(size: int) -> bytes:
            nonlocal held
            while len(held) < size and (piece := next(pieces, b"")):
                held += piece
            data, held = held[:size], held[size:]
            return data

        transfer.unpack(new.settings, read)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert (new.workspace / "big").stat().st_size == 64 * 1024 * 1024
