"""Images at http(s) addresses, fetched for the model: only from public addresses, only images, only small ones.

A conversation's client may be anybody, and the worker stands inside a network: so each host name is resolved here, all
its addresses must be public, and the connection goes to the very address that was checked. Redirects are followed the
same way, one by one.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import msgspec

from claude_worker.content import image_type, is_remote, remote_not_allowed
from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.messages import ImageUrl, Message, Part

if TYPE_CHECKING:
    import httpx2

LIMIT_BYTES = 5 * 1024 * 1024
"""Size of the largest image that is fetched."""
TIMEOUT = 20.0
MOST_IMAGES = 20
_AT_ONCE = 4
_MOST_REDIRECTS = 3
_MOST_ADDRESSES = 4
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _refused(message: str, code: str = "remote_image_failed") -> ApiError:
    return bad_request(message, code=code, param="messages")


# -- addresses ---------------------------------------------------------------------------------------------------------


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not private, loopback, link-local, shared or multicast."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises ApiError when there are none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(f"The host {host!r} of an image cannot be found.") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def _checked(url: str) -> tuple[str, list[str]]:
    """Host and public addresses of `url`. Raises ApiError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _refused("The address of an image is not valid.") from error
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise _refused("The address of an image is not valid: http(s) with a host and without credentials.")
    addresses = await resolve(host, port)
    if not addresses or not all(is_public(address) for address in addresses):
        raise _refused(f"The host {host!r} of an image is not at a public address.", "remote_image_not_allowed")
    return host, addresses[:_MOST_ADDRESSES]


# -- fetching ----------------------------------------------------------------------------------------------------------


async def fetch(url: str, *, limit_bytes: int = LIMIT_BYTES, timeout: float = TIMEOUT) -> tuple[str, bytes]:
    """Media type and bytes of the image at `url`. Raises ApiError (400)."""
    import httpx2  # noqa: PLC0415 - takes a tenth of a second, which a worker's start must not wait for

    trusted = await asyncio.to_thread(ssl.create_default_context)
    try:
        async with (
            asyncio.timeout(timeout),
            # No proxy from the environment: it would resolve the name anew.
            httpx2.AsyncClient(verify=trusted, trust_env=False, timeout=timeout) as client,
        ):
            data = await _follow(client, url, limit_bytes)
    except TimeoutError as error:
        raise _refused(f"An image did not come within {timeout:g} s.") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _refused("An image could not be fetched from its address.") from error
    media_type = image_type(data)
    if media_type is None:
        raise _refused("What is at an image's address is not a png, jpeg, gif or webp.", "invalid_image")
    return media_type, data


async def _follow(client: httpx2.AsyncClient, url: str, limit: int) -> bytes:
    for _ in range(_MOST_REDIRECTS + 1):
        host, addresses = await _checked(url)
        response = await _get(client, url, host, addresses)
        try:
            target = response.headers.get("location")
            if response.status_code in _REDIRECTS and target:
                url = urljoin(url, target)
                continue
            if response.status_code != 200:
                raise _refused(f"The address of an image answered with the status {response.status_code}.")
            return await _read(response, limit)
        finally:
            await response.aclose()
    raise _refused("The address of an image redirects too often.")


async def _get(client: httpx2.AsyncClient, url: str, host: str, addresses: list[str]) -> httpx2.Response:
    """The response of the first address that can be connected to; its body is yet to be read."""
    import httpx2  # noqa: PLC0415 - see `fetch`

    given = httpx2.URL(url)
    headers = {"host": given.netloc.decode("ascii"), "accept": "image/*", "accept-encoding": "identity"}
    for i, address in enumerate(addresses):
        request = client.build_request(
            "GET", given.copy_with(host=address), headers=headers, extensions={"sni_hostname": host}
        )
        try:
            return await client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            if i == len(addresses) - 1:
                raise
    raise AssertionError("there is at least one address")


async def _read(response: httpx2.Response, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    # Raw: nothing is unpacked, so nothing small becomes large.
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > limit:
            raise _refused(f"An image is larger than {limit} bytes.", "remote_image_too_large")
        pieces.append(piece)
    return b"".join(pieces)


# -- into messages -----------------------------------------------------------------------------------------------------


def _remote(part: Part) -> str | None:
    return part.image_url.url if part.image_url is not None and is_remote(part.image_url.url) else None


async def inline_messages(messages: Sequence[Message], allow: bool) -> tuple[Message, ...]:
    """The messages with each remote image replaced by a data URI. Raises ApiError (400) when that is not allowed."""
    urls = list(dict.fromkeys(url for m in messages for part in m.parts if (url := _remote(part))))
    if not urls:
        return tuple(messages)
    if not allow:
        raise remote_not_allowed()
    if len(urls) > MOST_IMAGES:
        raise _refused(f"There are {len(urls)} remote images; at most {MOST_IMAGES} are fetched.")
    fetched = await _fetch_all(urls)
    return tuple(_inlined(message, fetched) for message in messages)


async def _fetch_all(urls: Sequence[str]) -> dict[str, str]:
    """URL → data URI. The first that fails ends the others."""
    turnstile = asyncio.Semaphore(_AT_ONCE)
    found: dict[str, str] = {}

    async def one(url: str) -> None:
        async with turnstile:
            media_type, data = await fetch(url)
        found[url] = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"

    try:
        async with asyncio.TaskGroup() as group:
            for url in urls:
                group.create_task(one(url))
    except* ApiError as errors:
        raise errors.exceptions[0] from None
    return found


def _inlined(message: Message, fetched: dict[str, str]) -> Message:
    if not any(_remote(part) for part in message.parts):
        return message
    parts = [
        msgspec.structs.replace(part, image_url=ImageUrl(fetched[url])) if (url := _remote(part)) else part
        for part in message.parts
    ]
    return msgspec.structs.replace(message, content=parts)
