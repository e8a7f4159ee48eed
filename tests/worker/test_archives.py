"""Archives that are not one of ours, or not whole: nothing of them stays, and nothing outside is touched."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from claude_worker import tar, transfer
from claude_worker.openai.errors import ApiError
from worker.carriers import Carrier, code_of, tree_of

MANIFEST = msgspec.json.encode(transfer.Manifest("/old"))
STATE = b'{"version":1,"claude_session_id":"s"}'


def made(*members: tuple[str, bytes, bytes | str], format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive that begins like ours."""
    out = io.BytesIO()
    begin = [("manifest.json", tarfile.REGTYPE, MANIFEST), ("state.json", tarfile.REGTYPE, STATE)]
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, kind, content in [*begin, *members]:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o6777
            if isinstance(content, str):
                info.linkname = content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


FILE, LINK, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.fixture
async def new(tmp_path: Path) -> Carrier:
    return Carrier(tmp_path / "new")


@pytest.mark.parametrize("members", [
    [("workspace/../../outside/x", FILE, b"x")],
    [("workspace//etc/x", FILE, b"x")],
    [("../outside/x", FILE, b"x")],
    [("/outside/x", FILE, b"x")],
    [("outside", FILE, b"x")],
    [("lock", FILE, b"x")],
    [("ledger", LINK, "/etc/passwd")],
    [("claude/settings.json", FILE, b"x")],
    [("claude/.credentials.json", FILE, b"x")],
    [("claude/projects/../settings.json", FILE, b"x")],
    [("claude/projects/x", LINK, "/etc")],
    [("workspace", LINK, "/etc")],
    [("workspace/out", LINK, "../../outside"), ("workspace/out/x", FILE, b"x")],
    [("workspace/out", LINK, "../../outside"), ("workspace/out", FOLDER, b"")],
    [("workspace/out", LINK, "../../outside"), ("workspace/out/below", FOLDER, b"")],
    [("workspace/out", LINK, "../../outside"), ("workspace/out/x", LINK, "y")],
    [("workspace/a", FILE, b"x"), ("workspace/b", tarfile.LNKTYPE, "workspace/a")],
    [("workspace/pipe", tarfile.FIFOTYPE, b"")],
    [("workspace/device", tarfile.CHRTYPE, b"")],
    [("workspace/" + "x" * 300, FILE, b"x")],
    [("workspace/" + "/".join(["x" * 200] * 30), FILE, b"x")],
    [("state.json", FILE, b"{")],
    [("state.json", FILE, b'{"version": 99}')],
    [("manifest.json", FILE, b'{"workspace": "/old", "version": 2}')],
])  # fmt: skip
async def test_what_is_no_part_of_a_conversation(tmp_path: Path, new: Carrier, members: Any) -> None:
    (tmp_path / "outside").mkdir()
    before = tree_of(tmp_path)
    answer = await new.client.put("/import", content=made(("workspace/first", FILE, b"x"), *members))
    assert answer.status_code in (400, 409), answer.text
    assert answer.json()["error"]["code"] in ("invalid_archive", "invalid_path", "is_a_folder")
    assert tree_of(tmp_path) == before
    assert new.status.unbound


@pytest.mark.parametrize("cut", [0, 100, 512, 1024, 1500, 2048 + 700, -1, -10240])
async def test_an_archive_that_ends_too_early(new: Carrier, cut: int) -> None:
    whole = made(("workspace/a", FILE, b"x" * 5000))
    answer = await new.client.put("/import", content=whole[:cut] if cut > -10240 else whole[: 8 * 512])
    assert answer.status_code == (200 if cut == -1 else 400)
    assert new.status.unbound == (cut != -1)


async def test_permissions_that_nobody_needs_are_dropped(new: Carrier) -> None:
    await new.client.put("/import", content=made(("workspace/a", FILE, b"x"), ("workspace/b", FOLDER, b"")))
    assert (new.workspace / "a").stat().st_mode & 0o7777 == 0o755
    assert (new.workspace / "b").stat().st_mode & 0o7000 == 0


async def test_a_later_file_may_replace_a_link(tmp_path: Path, new: Carrier) -> None:
    (tmp_path / "secret").write_text("secret")
    members = ("workspace/a", LINK, "../../secret"), ("workspace/a", FILE, b"mine")
    assert (await new.client.put("/import", content=made(*members))).status_code == 200
    assert (tmp_path / "secret").read_text() == "secret"
    assert (new.workspace / "a").read_bytes() == b"mine"


async def test_extended_headers_are_not_even_read(new: Carrier) -> None:
    archive = made(("workspace/" + "ü" * 90, FILE, b"x"), format=tarfile.PAX_FORMAT)
    assert code_of(await new.client.put("/import", content=archive)) == (400, "invalid_archive")


def test_bytes_and_members_are_bounded() -> None:
    archive = made(*[(f"workspace/{i}", FILE, b"x" * 1000) for i in range(10)])
    for limits in (tar.Limits(size=5000), tar.Limits(members=5)):
        with pytest.raises(ApiError) as raised:
            list(tar.members(io.BytesIO(archive).read, limits))
        assert (raised.value.status, raised.value.code) == (413, "archive_too_large")


async def test_a_sender_that_leaves_leaves_nothing_behind(tmp_path: Path, new: Carrier) -> None:
    before = tree_of(tmp_path)
    archive = made(("workspace/a", FILE, b"x" * 100_000))
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": archive[:50_000], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/import", "query_string": b"", "headers": []}
    await new.app(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert tree_of(tmp_path) == before


async def test_a_request_that_is_cancelled_leaves_nothing_behind(tmp_path: Path, new: Carrier) -> None:
    before = tree_of(tmp_path)
    archive = made(("workspace/a", FILE, b"x" * 100_000))
    waiting = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield archive[:50_000]
        waiting.set()
        await asyncio.Event().wait()

    importing = asyncio.create_task(new.client.put("/import", content=body()))
    await waiting.wait()
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing
    assert tree_of(tmp_path) == before
    assert not new.status.busy
