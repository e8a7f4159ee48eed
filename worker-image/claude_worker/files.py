"""The workspace's files over HTTP, and the whole conversation for a fork. Nothing here blocks the event loop.

A link is never followed, wherever it leads. What Claude wrote is never shown by a browser as this server's own page:
every file is plain bytes to be saved.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from functools import partial
from io import FileIO
from itertools import islice
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claude_worker import tar, transfer, tree
from claude_worker.openai.errors import NOT_STARTED, ApiError, bad_request
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.streams import STALL_SECONDS, Download, Incoming, in_thread, read_in_thread, received

Endpoint = Callable[[Request], Awaitable[Response]]

LIST_MAX = 10_000
_LIST_DEFAULT = 1_000
_EXPORT_STALL_SECONDS = 3600.0
"""The router takes nothing of an export while the fork waits for its worker, and gives up by its own clock."""
_FILES = "/files/"
_UUID = re.compile(r"[0-9a-fA-F-]{36}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_SAFE = {
    "content-type": "application/octet-stream",
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "no-store",
}


class Conversation(Protocol):
    """What is needed of `claude_worker.conversation.Conversation`."""

    def quiet(self) -> AbstractAsyncContextManager[None]: ...

    async def import_volume(self, read: Callable[[], Awaitable[None]], at: str = "") -> None: ...


class _AnyText(Convertor[str]):
    """The rest of the path, line breaks included; Starlette's own `path` stops at one."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("file", _AnyText())


def file_routes(
    settings: WorkerSettings, status: Status, conversation: Conversation
) -> list[tuple[str, str, Endpoint]]:
    """Method, path and endpoint of each route; all belong behind the guard."""
    files, whole = _Files(settings, status), _Whole(settings, status, conversation)
    return [
        ("GET", "/files", files.all),
        ("GET", "/files/{path:file}", files.get),
        ("PUT", "/files/{path:file}", files.put),
        ("GET", "/export", whole.export),
        ("PUT", "/import", whole.import_),
    ]


class _Files:
    def __init__(self, settings: WorkerSettings, status: Status) -> None:
        self._root = settings.workspace.resolve()
        self._limit = settings.max_body_bytes
        self._status = status

    async def all(self, request: Request) -> Response:
        """`GET /files`: the workspace as a tar archive, or a page of its listing with `?list=true`."""
        if request.query_params.get("list") == "true":
            return await self._list(request)
        headers = {**_SAFE, "content-type": "application/x-tar", **_attachment("workspace.tar")}
        return await _download(self._status, transfer.pack_workspace(self._root), headers)

    async def _list(self, request: Request) -> Response:
        """Parameters: `under` (a folder), `after` (the `last_path` of the page before), `limit`."""
        query = request.query_params
        limit = _integer(query.get("limit", str(_LIST_DEFAULT)), 1, LIST_MAX)
        under = tree.split(query["under"]) if query.get("under") else ()
        after = tree.split(query["after"]) if query.get("after") else ()
        if after[: len(under)] != under[: len(after)]:
            raise bad_request("'after' is not in the folder 'under'.", code="invalid_parameter", param="after")

        def page() -> list[dict[str, Any]]:
            with tree.told("/".join(under)):
                return [_shown(entry) for entry in islice(tree.walk(self._root, under, after=after), limit + 1)]

        with self._status.aside():
            found = await in_thread(page)
        data, more = found[:limit], len(found) > limit
        last = data[-1]["path"] if data else None
        return JSONResponse({"object": "list", "data": data, "has_more": more, "last_path": last})

    async def get(self, request: Request) -> Response:
        """`GET /files/{path}`: a file's bytes."""
        path = _path(request)
        fd, found = await in_thread(lambda: tree.open_file(self._root, path))
        headers = {**_SAFE, "content-length": str(found.st_size), **_attachment(path.rpartition("/")[2])}
        file = FileIO(fd, "rb")
        return await _download(self._status, _content(file, found.st_size), headers, file=file)

    async def put(self, request: Request) -> Response:
        """`PUT /files/{path}`: a file as the body has it, at once and whole; 201 when it is new."""
        _refuse_when_ending(self._status)
        path = _path(request)
        if _length(request) > self._limit:
            raise self._too_large()
        with self._status.aside(), tree.told(path):
            draft = await in_thread(lambda: tree.Draft(self._root, tree.split(path)))
            try:
                size = await self._fill(draft, received(request))
                created = await in_thread(draft.commit)
            finally:
                await in_thread(draft.close)
        return JSONResponse({"object": "file", "path": _text(path), "size": size}, 201 if created else 200)

    async def _fill(self, draft: tree.Draft, pieces: AsyncGenerator[bytes, None]) -> int:
        size = 0
        async with aclosing(pieces):
            async for piece in pieces:
                size += len(piece)
                if size > self._limit:
                    raise self._too_large()
                await in_thread(partial(draft.write, piece))
        return size

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The file is larger than {self._limit} bytes (MAX_BODY_BYTES).", code="file_too_large")


class _Whole:
    def __init__(self, settings: WorkerSettings, status: Status, conversation: Conversation) -> None:
        self._settings = settings
        self._status = status
        self._conversation = conversation

    async def export(self, request: Request) -> Response:
        """`GET /export`: the conversation as `transfer` packs it. No turn runs meanwhile."""
        _refuse_when_ending(self._status)
        if self._status.unbound:
            raise ApiError(409, "The conversation has not begun yet.", code="conversation_empty", retry=False)
        headers = {**_SAFE, "content-type": "application/x-tar"}
        pieces, quiet = transfer.pack(self._settings), self._conversation.quiet()
        return await _download(self._status, pieces, headers, held=quiet, stall=_EXPORT_STALL_SECONDS)

    async def import_(self, request: Request) -> Response:
        """`PUT /import[?at=UUID]`: what another worker exported; to go on from the message `at`."""
        _refuse_when_ending(self._status)
        at = request.query_params.get("at", "")
        if at and not _UUID.fullmatch(at):
            raise bad_request("'at' is not the id of a message.", code="invalid_parameter", param="at")

        async def read() -> None:
            async with aclosing(received(request)) as pieces:
                incoming = Incoming(pieces)
                await read_in_thread(incoming, lambda: transfer.unpack(self._settings, incoming.read))

        with self._status.aside():
            await self._conversation.import_volume(read, at=at)
        return JSONResponse({"imported": True})


# -- parts -----------------------------------------------------------------------------------------------------------


def _refuse_when_ending(status: Status) -> None:
    if status.ending:
        raise ApiError(503, "This worker is shutting down.", code="worker_draining",
                       headers={NOT_STARTED: "not-started"}, retry=True, retry_after=1)  # fmt: skip


async def _download(
    status: Status,
    pieces: Generator[bytes, None, None],
    headers: dict[str, str],
    *,
    held: AbstractAsyncContextManager[None] | None = None,
    file: FileIO | None = None,
    stall: float = STALL_SECONDS,
) -> Response:
    """What is held, and the worker's being busy, lasts as long as the download."""
    async with AsyncExitStack() as stack:
        if file is not None:
            stack.enter_context(file)
        stack.enter_context(status.aside())
        if held is not None:
            await stack.enter_async_context(held)
        return Download(pieces, headers=headers, held=stack.pop_all(), stall=stall)
    raise AssertionError("a stack of these swallows no exception")


def _content(file: FileIO, size: int) -> Generator[bytes, None, None]:
    """As many bytes as were announced, unless the file has become shorter: then the client sees that."""
    while size and (piece := file.read(min(tar.PIECE, size))):
        size -= len(piece)
        yield piece


def _length(request: Request) -> int:
    announced = request.headers.get("content-length", "0")
    return int(announced) if announced.isascii() and announced.isdigit() else 0


def _path(request: Request) -> str:
    """The file's path, byte by byte as it was sent: the decoded one has lost what is not UTF-8."""
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    path = os.fsdecode(unquote_to_bytes(raw.split(b"?", 1)[0].split(_FILES.encode(), 1)[1]))
    tree.split(path)
    return path


def _shown(entry: tree.Entry) -> dict[str, Any]:
    mode = entry.stat.st_mode
    names = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return {
        "path": _text(entry.path),
        "type": names.get(stat.S_IFMT(mode), "other"),
        "size": entry.stat.st_size if stat.S_ISREG(mode) else 0,
        "modified": entry.stat.st_mtime,
    }


def _text(path: str) -> str:
    """As JSON can hold it."""
    return os.fsencode(path).decode(errors="replace")


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(os.fsencode(name), safe='')}"}


def _integer(given: str, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(given) or not least <= int(given) <= most:
        raise bad_request(f"'limit' must be a number from {least} to {most}.", code="invalid_parameter", param="limit")
    return int(given)
