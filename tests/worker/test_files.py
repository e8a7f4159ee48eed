"""The workspace's files over HTTP."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from claude_worker import files, streams
from worker.carriers import Carrier, code_of


@pytest.fixture
async def worker(tmp_path: Path) -> Carrier:
    carrier = Carrier(tmp_path / "volume", max_body_bytes=1000)
    (carrier.workspace / "src").mkdir()
    (carrier.workspace / "src" / "index.html").write_text("<script>alert(1)</script>")
    (carrier.workspace / "leaf").symlink_to("/etc/passwd")
    return carrier


async def test_a_file_is_bytes_to_be_saved_whatever_it_is(worker: Carrier) -> None:
    answer = await worker.client.get("/files/src/index.html")
    assert (answer.status_code, answer.text) == (200, "<script>alert(1)</script>")
    headers = dict(answer.headers)
    assert headers == {
        "content-type": "application/octet-stream", "content-length": "25", "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'", "cache-control": "no-store",
        "content-disposition": "attachment; filename*=UTF-8''index.html",
    }  # fmt: skip
    assert not worker.status.busy


async def test_what_is_put_can_be_got(worker: Carrier) -> None:
    for name in ("new.txt", "a/b/ü 😀.txt", "line\nbreak\r\n", "100%", "a?b#c", os.fsdecode(b"\xff")):
        path = "/files/" + quote(os.fsencode(name))
        added = await worker.client.put(path, content=b"\0\xff" * 10)
        assert added.status_code == 201, name
        assert (await worker.client.put(path, content=b"again")).status_code == 200
        assert (await worker.client.get(path)).content == b"again"
        assert (worker.workspace / name).read_bytes() == b"again"
    assert not worker.status.busy


async def test_an_empty_file(worker: Carrier) -> None:
    assert (await worker.client.put("/files/empty")).json() == {"object": "file", "path": "empty", "size": 0}
    answer = await worker.client.get("/files/empty")
    assert (answer.content, answer.headers["content-length"]) == (b"", "0")


@pytest.mark.parametrize(
    "path", ["%2e%2e/x", "src/%2E%2E/%2e%2e/x", "%2Fetc/passwd", "a%00b", "src//x", "x" * 256, "leaf", "leaf/x", "src/"]
)
async def test_a_path_that_leads_out_or_nowhere(worker: Carrier, path: str) -> None:
    url = httpx.URL("http://worker").copy_with(raw_path=b"/files/" + path.encode())
    assert code_of(await worker.client.get(url)) == (400, "invalid_path")
    if path != "leaf":  # a link that is written is replaced
        assert code_of(await worker.client.put(url, content=b"x")) == (400, "invalid_path")


async def test_what_is_not_there_or_no_file(worker: Carrier) -> None:
    assert code_of(await worker.client.get("/files/nothing")) == (404, "file_not_found")
    assert code_of(await worker.client.get("/files/src")) == (409, "is_a_folder")
    assert code_of(await worker.client.put("/files/src", content=b"")) == (409, "is_a_folder")
    assert sorted(os.listdir(worker.workspace)) == ["leaf", "src"]


async def test_a_file_that_is_too_large_leaves_nothing(worker: Carrier) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    assert code_of(await worker.client.put("/files/big", content=b"x" * 1001)) == (413, "file_too_large")
    assert code_of(await worker.client.put("/files/big", content=pieces())) == (413, "file_too_large")
    assert sorted(os.listdir(worker.workspace)) == ["leaf", "src"]
    assert not worker.status.busy


async def test_a_full_disk_is_told(worker: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("claude_worker.tree.os.write", full)
    assert code_of(await worker.client.put("/files/x", content=b"x")) == (507, "volume_full")
    assert sorted(os.listdir(worker.workspace)) == ["leaf", "src"]


async def test_the_listing_page_by_page(worker: Carrier) -> None:
    (worker.workspace / "src" / "z").write_text("12345")
    seen: list[str] = []
    after, more = "", True
    while more:
        page = (await worker.client.get("/files", params={"list": "true", "limit": "2", "after": after})).json()
        seen += [entry["path"] for entry in page["data"]]
        more, after = page["has_more"], page["last_path"]
    assert seen == ["leaf", "src", "src/index.html", "src/z"]
    page = (await worker.client.get("/files?list=true&under=src")).json()
    assert [(e["path"], e["type"], e["size"]) for e in page["data"]] == [
        ("src/index.html", "file", 25), ("src/z", "file", 5),
    ]  # fmt: skip
    assert not page["has_more"]
    kinds = [e["type"] for e in (await worker.client.get("/files?list=true")).json()["data"]]
    assert kinds == ["link", "folder", "file", "file"]


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "under=..", "under=leaf", "after=a&under=src"])
async def test_a_listing_that_is_none(worker: Carrier, query: str) -> None:
    assert (await worker.client.get(f"/files?list=true&{query}")).status_code == 400


async def test_the_workspace_as_an_archive(worker: Carrier) -> None:
    os.mkfifo(worker.workspace / "pipe")
    long = "/".join(["d" * 90] * 4) + "/" + "ü" * 100
    (worker.workspace / long).parent.mkdir(parents=True)
    (worker.workspace / long).write_bytes(os.urandom(700_000))
    (worker.workspace / "run").write_text("#!")
    (worker.workspace / "run").chmod(0o755)
    answer = await worker.client.get("/files")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        found = {member.name: member for member in archive}
        assert found["leaf"].linkname == "/etc/passwd"
        assert (found["run"].mode, found["src"].isdir(), "pipe" in found) == (0o755, True, False)
        reader = archive.extractfile(found[long])
        assert reader is not None
        assert reader.read() == (worker.workspace / long).read_bytes()


async def test_the_archive_of_an_empty_workspace(tmp_path: Path) -> None:
    answer = await Carrier(tmp_path / "empty").client.get("/files")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == []


async def test_an_ending_worker_takes_nothing(worker: Carrier) -> None:
    worker.status.set_phase("draining")
    answer = await worker.client.put("/files/x", content=b"x")
    assert code_of(answer) == (503, "worker_draining")
    assert answer.headers["x-claude-turn"] == "not-started"


# -- clients that leave ----------------------------------------------------------------------------------------------


def scope(method: str, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    raw = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": raw, "http_version": "1.1", "scheme": "http", "root_path": ""}  # fmt: skip


async def test_a_client_that_leaves_during_a_download_lets_the_worker_go(worker: Carrier) -> None:
    """And while it is there and takes nothing, no more is read than it was given."""
    worker.begin()
    (worker.workspace / "big").write_bytes(b"x" * 50_000_000)
    begun, left, sent = asyncio.Event(), asyncio.Event(), 0

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        if body := message.get("body"):
            sent += len(body)
            begun.set()
            await left.wait()

    task = asyncio.create_task(worker.app(scope("GET", "/export"), receive, send))  # type: ignore[arg-type]
    await begun.wait()
    assert worker.status.busy
    assert worker.conversation.slot.locked()
    left.set()
    await task
    assert sent < 3_000_000
    assert not worker.status.busy
    assert not worker.conversation.slot.locked()


async def test_a_client_that_takes_nothing_is_given_up(worker: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_EXPORT_STALL_SECONDS", 0.01)
    worker.begin()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await worker.app(scope("GET", "/export"), receive, send)  # type: ignore[arg-type]
    assert not worker.status.busy
    assert not worker.conversation.slot.locked()


async def test_an_upload_that_breaks_off_leaves_the_old_file(worker: Carrier) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await worker.app(scope("PUT", "/files/src/index.html"), receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert os.listdir(worker.workspace / "src") == ["index.html"]
    assert (worker.workspace / "src" / "index.html").read_text().startswith("<script>")


async def test_an_upload_that_stalls_is_given_up(worker: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = streams.received.__defaults__
    monkeypatch.setattr(streams.received, "__defaults__", (0.01,))
    assert defaults == (streams.STALL_SECONDS,)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await worker.app(scope("PUT", "/files/x"), receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
    assert not worker.status.busy
