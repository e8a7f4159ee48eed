"""What it holds in memory, and how a thousand conversations that sleep are listed."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from bench.report import Figure, Report
from claude_crds.names import session_name
from claude_router.local import records
from claude_router.local.records import Record
from claude_router.sessions import LOCAL_TENANT
from local.harness import chat, descendants, find_cli, scripted_model
from local.server import Server, resident_bytes, serving

_MIB = 1024 * 1024


def _sleeping(sessions: Path, count: int) -> None:
    """Records of `count` suspended conversations."""
    folder = sessions / "sessions"
    folder.mkdir(parents=True)
    now = time.time()
    for i in range(count):
        name = f"sleeping-{i}"
        record = Record(LOCAL_TENANT, name, str(uuid.uuid4()), created=now, last_active=now, turns=3)
        (folder / f"{session_name(LOCAL_TENANT, name)}.json").write_bytes(records.encode(record))


def _workers(server: Server) -> list[int]:
    """Ids of the worker shims: the parents of CLIs."""
    return [pid for pid in descendants(server.process.pid) if find_cli(pid)]


def measure(report: Report, folder: Path, *, conversations: int, turns: int) -> None:
    """All figures of memory."""
    with scripted_model() as model, serving(model, folder / "few", POOL_SIZE="2", WARM_WORKERS="0") as server:
        idle = resident_bytes(server.process.pid)
        report.add(Figure("memory", "router, idle", idle / _MIB, "MiB"))
        with server.client("m") as client:
            chat(client, "::say hi")
            worker = _workers(server)[0]
            report.add(Figure("memory", "worker shim after its first turn", resident_bytes(worker) / _MIB, "MiB",
                              f"its CLI {resident_bytes(find_cli(worker)) / _MIB:.0f} MiB"))  # fmt: skip
            for _ in range(turns):
                chat(client, "::say hi", stream=True)
            report.add(Figure("memory", f"worker shim after {turns} more", resident_bytes(worker) / _MIB, "MiB"))
        report.add(
            Figure("memory", f"router after {turns + 1} turns", resident_bytes(server.process.pid) / _MIB, "MiB")
        )
    _sleeping(folder / "many", conversations)
    with scripted_model() as model, serving(model, folder / "many", POOL_SIZE="2", WARM_WORKERS="0") as server:
        each = max(0, resident_bytes(server.process.pid) - idle) / conversations / 1024
        report.add(
            Figure("memory", f"a suspended conversation, of {conversations}", each, "KiB", "", "10 KiB", each <= 10)
        )
        with server.client() as client:
            client.get("/conversations")
            began = time.perf_counter()
            page = client.get("/conversations").json()
            first = time.perf_counter() - began
            seen, after = 0, ""
            began = time.perf_counter()
            while True:
                page = client.get("/conversations", params={"limit": 100, "after": after}).json()
                seen += len(page["data"])
                if not page["has_more"]:
                    break
                after = page["last_id"]
            whole = (time.perf_counter() - began) * 1000
            listed = f"{seen} conversations listed, in pages of 100"
            report.add(Figure("memory", listed, whole, "ms", f"one page {first * 1000:.1f} ms"))
            assert seen == conversations
