"""The audit log: one JSON line for each request that needs a key, on the logger `claude_router.audit`.

Its fields are those of `Line`; docs/audit.md says what they mean. Never in it: prompts, answers, keys, conversations'
ids as clients sent them. Lines are written by a thread of its own, in order; a full disk loses lines, and no request.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from starlette.types import Scope

from claude_crds.resources import timestamp
from claude_router.access import Access, Grant, looked_at

log = logging.getLogger(__name__)

audit = logging.getLogger("claude_router.audit")

STDOUT = "stdout"
TAIL = 1024
"""So many of an answer's last bytes hold its usage, unless a client's own texts come after it there."""

_QUEUE = 10_000
_USAGE = re.compile(rb'(?<!\\)"usage":\{"(?:prompt|input)_tokens":(\d+)')
_USAGE_LENGTH = 300
_WRITTEN = re.compile(rb'"(?:completion|output)_tokens":(\d+)')
_CACHED = re.compile(rb'"(?:cached_tokens|cache_read_input_tokens)":(\d+)')
_CACHE_WRITTEN = re.compile(rb'"cache_creation_input_tokens":(\d+)')
_COST = re.compile(rb'(?<!\\)"x_claude":\{"cost_usd":(\d+(?:\.\d+)?(?:e-?\d+)?)')


class Line(msgspec.Struct, kw_only=True):
    """One request. What is not known, or does not apply, is null."""

    time: str
    team: str | None
    for_team: str | None
    key: str | None
    client: str | None
    method: str
    route: str
    conversation: str | None
    model: str | None
    status: int
    error: str | None
    latency_ms: float
    first_byte_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cost_usd: float | None


class CannotWrite(Exception):
    """The file cannot be opened; the message says why."""


class Spent(msgspec.Struct, frozen=True):
    """What an answer says of itself."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None

    def fields(self) -> dict[str, Any]:
        """As fields of a line."""
        return msgspec.structs.asdict(self)


NOTHING = Spent()


def about(scope: Scope, grant: Grant | None, access: Access) -> dict[str, Any]:
    """The fields that say when and who: now, and the client of this scope. One without a grant was refused."""
    client = scope.get("client")
    grant = grant or access.whose(dict(scope["headers"]))
    known = grant is not None and grant.teams
    team = grant.caller.team if grant and known else None
    acting = (looked_at(scope) or grant.tenant) if grant and known else None
    return {
        "time": timestamp(time.time()),
        "team": team,
        "for_team": acting if acting != team else None,
        "key": grant.caller.key_id or None if grant else None,
        "client": client[0] if client else None,
    }


def spent_in(tail: bytes) -> Spent:
    """What the last bytes of an answer say; the last word counts, for that one is the endpoint's own."""
    cost = _last(_COST, tail)
    usd = float(cost[1]) if cost else None
    usage = _last(_USAGE, tail)
    if usage is None:
        return Spent(cost_usd=usd) if cost else NOTHING
    read, rest = int(usage[1]), tail[usage.end() : usage.end() + _USAGE_LENGTH]
    written, cached = _WRITTEN.search(rest), _CACHED.search(rest)
    cache = int(cached[1]) if cached else None
    if b"cache_read_input_tokens" in rest:  # Anthropic's API counts these apart
        made = _CACHE_WRITTEN.search(rest)
        read += (cache or 0) + (int(made[1]) if made else 0)
    return Spent(read, int(written[1]) if written else None, cache, usd)


def _last(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return found


def write(line: Line) -> None:
    """Log it, without waiting for it to be written."""
    audit.info("%s", msgspec.json.encode(line).decode())


class _Queue(logging.handlers.QueueHandler):
    """Takes a record as it is; when too many wait for a slow disk, counts what is lost."""

    def __init__(self, waiting: queue.Queue[Any]) -> None:
        super().__init__(waiting)
        self.lost = 0

    def prepare(self, record: logging.LogRecord) -> Any:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            if self.lost == 0:
                log.error("the audit log cannot be written as fast as requests come: lines are lost")
            self.lost += 1


class _Listener(logging.handlers.QueueListener):
    def enqueue_sentinel(self) -> None:
        self.queue.put(self._sentinel)  # type: ignore[attr-defined]  # waits for room, where the original would fail


def _complain(record: logging.LogRecord) -> None:
    log.error("a line of the audit log could not be written: %s", sys.exc_info()[1])


@contextmanager
def writing(where: str) -> Iterator[bool]:
    """Write the audit log there while the block runs (`stdout`, or a file's path; empty: not at all); whether it is.

    The file is added to, and opened anew when it has been moved away. Raises CannotWrite when it cannot be opened.
    """
    if not where:
        yield False
        return
    target: logging.Handler
    if where == STDOUT:
        target = logging.StreamHandler(sys.stdout)
    else:
        try:
            target = logging.handlers.WatchedFileHandler(where, encoding="utf-8")
        except OSError as error:
            raise CannotWrite(f"AUDIT_LOG: {where} cannot be opened ({error.strerror})") from error
    target.handleError = _complain  # type: ignore[method-assign]
    waiting: queue.Queue[Any] = queue.Queue(_QUEUE)
    taking = _Queue(waiting)
    listener = _Listener(waiting, target)
    before = audit.propagate, audit.level
    audit.propagate = False
    audit.setLevel(logging.INFO)
    audit.addHandler(taking)
    listener.start()
    try:
        yield True
    finally:
        audit.removeHandler(taking)
        audit.propagate, audit.level = before
        listener.stop()
        with suppress(OSError):  # what is left to write on a full disk
            target.close()
