"""The Kubernetes API for router and operator: raw JSON over aiohttp, read into the partial views.

Why not a client library: the official one's typed models cost 66 KiB and 0.5 ms a pod (these views 2 KiB and 10 µs),
its asyncio half is marked alpha, and what both parts need is six verbs. aiohttp is there anyway (kopf, the relay).

    async with Api(loader()) as api:
        session = await api.get(SESSIONS, namespace, name)

Every method raises `errors.ApiError` (and `AccessError`, if the credentials cannot be read). Nothing is sent twice,
except after a 401 (the token was replaced), so callers decide what may be repeated. The environment's proxies are not
used: inside a cluster they would be wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec

from claude_crds import __version__
from claude_crds.access import Access, Loader, read_token
from claude_crds.errors import ApiError, Conflict, Invalid, Status, Unavailable, from_body
from claude_crds.resources import Resource

T = TypeVar("T")

MOST_CONNECTIONS = 32
"""Watches included; more requests than that wait for one."""

TOKEN_SECONDS = 60.0
"""How old a token from a file may be before it is read again; as in the official clients."""
_TLS_CLOSE_SECONDS = 0.25
"""aiohttp does not wait until connections over TLS are closed, and a loop that ends before that complains."""
CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0

_APPLY_PATCH = "application/apply-patch+yaml"  # of which JSON is a part
_MERGE_PATCH = "application/merge-patch+json"
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class RawList(msgspec.Struct):
    """A page of a list, its objects not yet read."""

    metadata: _ListMetadata
    items: list[msgspec.Raw] = []


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. `continue_token` is empty on the last one."""

    items: list[T]
    resource_version: str
    continue_token: str


_LIST = msgspec.json.Decoder(RawList)


class Api:
    """The API server. To be made inside the event loop, and closed: `close()`, or `async with`."""

    def __init__(self, load: Loader, *, user_agent: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._clock = clock
        self._access: Access | None = None
        self._authorization = ""
        self._read_at = 0.0
        self._loading = asyncio.Lock()
        # No compression: the API server would spend more time on it than the node's network does on the bytes.
        headers = {"User-Agent": user_agent or f"claude-code-api/{__version__}", "Accept-Encoding": "identity"}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS),
            headers={**headers, "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()
        if self._access is not None and self._access.tls is not None:
            await asyncio.sleep(_TLS_CLOSE_SECONDS)

    async def namespace(self) -> str:
        """The pod's own namespace, or the kubeconfig's."""
        return (await self._current()).namespace

    async def get(self, resource: Resource[T], namespace: str, name: str) -> T:
        return resource.decoder.decode(await self._call("GET", resource.path(namespace, name)))

    async def list(
        self,
        resource: Resource[T],
        namespace: str,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
    ) -> Page[T]:
        """A page of `limit` objects (0: all), the present state (never a cache's older one)."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "continue": continue_token}
        page = await self.list_raw(resource, namespace, {**query, "limit": str(limit or "")})
        items = [resource.decoder.decode(raw) for raw in page.items]
        return Page(items, page.metadata.resource_version, page.metadata.continue_)

    async def list_raw(self, resource: Resource[Any], namespace: str, query: Mapping[str, str]) -> RawList:
        return _LIST.decode(await self._call("GET", resource.path(namespace), query=query))

    async def create(self, resource: Resource[T], namespace: str, body: Mapping[str, Any]) -> T:
        """`body` needs no apiVersion and kind. Raises AlreadyExists."""
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return resource.decoder.decode(await self._call("POST", resource.path(namespace), whole))

    async def patch(
        self,
        resource: Resource[T],
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        *,
        subresource: str = "",
        resource_version: str = "",
        uid: str = "",
    ) -> T:
        """Merge patch: what it names is set (None: removed), lists as a whole. `subresource` is "status" for a status.

        With `resource_version` or `uid` it raises Conflict if the object has changed since, or is another one. A status
        is guarded by `resource_version` only: there the server looks at no uid, and says nothing.
        """
        if uid and subresource:
            raise ValueError(f"the server does not look at the uid in a patch of {subresource}: give resource_version")
        if expected := _expected(resource_version, uid):
            patch = {**patch, "metadata": {**patch.get("metadata", {}), **expected}}
        path = resource.path(namespace, name, subresource)
        try:
            return resource.decoder.decode(await self._call("PATCH", path, patch, content_type=_MERGE_PATCH))
        except Invalid as error:
            # Of custom resources the server says "metadata.uid: field is immutable", of others that it conflicts.
            if uid and "metadata.uid" in error.status.message:
                raise Conflict(error.status, f"PATCH {path}") from error
            raise

    async def apply(
        self, resource: Resource[T], namespace: str, body: Mapping[str, Any], *, manager: str, subresource: str = ""
    ) -> T:
        """Server-side apply, with force: what `body` says belongs to `manager` from now on. Makes what is not there."""
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        path = resource.path(namespace, body["metadata"]["name"], subresource)
        query = {"fieldManager": manager, "force": "true"}
        return resource.decoder.decode(await self._call("PATCH", path, whole, query=query, content_type=_APPLY_PATCH))

    async def delete(
        self,
        resource: Resource[Any],
        namespace: str,
        name: str,
        *,
        resource_version: str = "",
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        """Delete; what it owns goes after it. With `resource_version` or `uid` raises Conflict as `patch` does."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if expected := _expected(resource_version, uid):
            options["preconditions"] = expected
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self._call("DELETE", resource.path(namespace, name), options)

    @asynccontextmanager
    async def watch(
        self, resource: Resource[Any], namespace: str, query: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The raw stream of a watch. A read that has to wait longer than `silence` seconds raises TimeoutError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        query = {"watch": "true", **query}
        async with self._send("GET", resource.path(namespace), query=query, timeout=timeout) as answer:
            yield answer.content

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "",
        accept: str = "",
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        data = None if body is None else msgspec.json.encode(body)
        kinds = ({"Accept": accept} if accept else {}) | (
            {} if data is None else {"Content-Type": content_type or "application/json"}
        )
        try:
            async with self._send(method, path, query=query, data=data, headers=kinds, timeout=timeout) as answer:
                return await answer.read()
        except _FAILURES as error:
            raise _unreachable(error, f"{method} {path}") from error

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, if it is a good one. Only the start is guarded here: reading may raise aiohttp's own errors."""
        tried = f"{method} {path}"
        access = await self._current()
        for again in (True, False):
            sent = dict(headers or {})
            if self._authorization:
                sent["Authorization"] = self._authorization
            try:
                answer = await self._http.request(
                    method,
                    access.server + path,
                    params={k: v for k, v in (query or {}).items() if v},
                    data=data,
                    headers=sent,
                    timeout=timeout,
                    ssl=access.tls or True,
                    server_hostname=access.tls_name,
                    allow_redirects=False,
                )
            except _FAILURES as error:
                raise _unreachable(error, tried) from error
            async with answer:
                if answer.status < 300:
                    yield answer
                    return
                problem = await _problem(answer, tried)
            if answer.status != 401 or not again:
                raise problem
            access = await self._reload(access)

    async def _current(self) -> Access:
        """The access, loaded at first use; its token read again from time to time. Files are read in a thread."""
        access = self._access
        if access is None:
            return await self._reload(None)
        if access.token_file and self._clock() - self._read_at > TOKEN_SECONDS:
            self._read_at = self._clock()
            # The one we have may do for a long time yet; if not, a 401 makes us read everything anew.
            with suppress(OSError):
                self._authorization = await asyncio.to_thread(read_token, access.token_file)
        return access

    async def _reload(self, refused: Access | None) -> Access:
        async with self._loading:
            if self._access is None or self._access is refused:
                self._access = await asyncio.to_thread(self._load)
                self._authorization = self._access.authorization
                self._read_at = self._clock()
            return self._access


async def _problem(answer: aiohttp.ClientResponse, tried: str) -> ApiError:
    try:
        return from_body(answer.status, await answer.read(), tried, answer.headers.get("Retry-After"))
    except _FAILURES as error:
        return _unreachable(error, tried)


def _expected(resource_version: str, uid: str) -> dict[str, str]:
    return {k: v for k, v in (("resourceVersion", resource_version), ("uid", uid)) if v}


def _unreachable(error: BaseException, tried: str) -> ApiError:
    text = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        text = f"no connection within {CONNECT_SECONDS:g} s"
    elif isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        # aiohttp's own words show the TLS context's address in memory.
        text = f"cannot connect to {error.host}:{error.port}: {error.os_error}"
    return Unavailable(Status(message=text), tried)
