"""Suspended conversations, laid down as a server would have kept them, and listed over HTTP."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import msgspec

from claude_crds.names import session_name
from claude_router.local import records
from claude_router.local.records import Record


def lay_down(sessions: Path, count: int, tenant: Callable[[int], str]) -> None:
    """Records of so many, in a server's folder of sessions that is not there yet; the number-th is that tenant's."""
    folder = sessions / "sessions"
    folder.mkdir(parents=True)
    now = time.time()
    for number in range(count):
        owner, name = tenant(number), f"sleeping-{number}"
        record = Record(owner, name, str(uuid.uuid4()), created=now, last_active=now, turns=3)
        (folder / f"{session_name(owner, name)}.json").write_bytes(records.encode(record))


def page(connection: HTTPConnection, after: str, *, limit: int, key: str = "") -> tuple[int, str, float]:
    """How many one page holds, where the next begins ("" when there is none), and the ms it took."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    began = time.perf_counter()
    connection.request("GET", f"/conversations?limit={limit}&after={quote(after)}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    taken = (time.perf_counter() - began) * 1000
    if answer.status != 200:
        raise RuntimeError(f"GET /conversations: {answer.status} {body[:300]!r}")
    found = msgspec.json.decode(body)
    return len(found["data"]), found["last_id"] if found["has_more"] else "", taken


def listed(connection: HTTPConnection, *, limit: int, key: str = "") -> tuple[int, float]:
    """How many there are, and the ms in which all were listed, page by page."""
    seen, after, began = 0, "", time.perf_counter()
    while True:
        count, after, _ = page(connection, after, limit=limit, key=key)
        seen += count
        if not after:
            return seen, (time.perf_counter() - began) * 1000
