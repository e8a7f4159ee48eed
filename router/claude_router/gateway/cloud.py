"""What Bedrock and Vertex have in common: bodies that are written anew, and answers that are put as the Messages API's.

A worker learns what its request has done wrong, and of the account nothing: what a cloud says about credentials names
accounts, and may repeat what was signed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
from yarl import URL

from claude_router.gateway import errors
from claude_router.gateway.cloud_models import known_betas
from claude_router.gateway.upstream import Asked, Data, Reply
from claude_worker.openai.errors import ApiError

log = logging.getLogger(__name__)

Fields = dict[str, msgspec.Raw]
_FIELDS = msgspec.json.Decoder(Fields)
_LARGE_BODY = 128 * 1024
"""A body of more bytes is written anew, hashed and signed in a thread: the event loop has others to serve."""
_MOST_KEYS = 500_000
"""In a body and all that is in it: each that is the body's own takes more memory than room."""
_LARGEST_ERROR = 64 * 1024
_LONGEST_MESSAGE = 2000
_JSON = (b"content-type", b"application/json")
T = TypeVar("T")

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "request_too_large", 424: "api_error", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


class Request(NamedTuple):
    """What goes to a cloud. Not to be printed: its headers hold a credential."""

    url: str
    headers: dict[str, str]
    body: bytes


class Refused(NamedTuple):
    """What a cloud's error body says: `reason` is a word of the cloud's own."""

    message: str
    reason: str = ""


@dataclass(slots=True)
class Whole:
    """A Reply that is here already, and its own Content."""

    status: int
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(repr=False)
    _over: bool = False

    @property
    def content(self) -> Whole:
        """See Reply."""
        return self

    async def readany(self) -> bytes:
        """See Content."""
        self._over = True
        return self.body

    def at_eof(self) -> bool:
        """See Content."""
        return self._over

    def close(self) -> None:
        """See Reply."""


def not_offered(cloud: str) -> ApiError:
    """404: the cloud has nothing that answers this request."""
    return ApiError(404, f"{cloud} does not offer this.", code="not_found", retry=False)


def unknown_model(model: str, cloud: str) -> ApiError:
    """404: the name is none that the cloud could have a model for."""
    message = f"There is no model {model[:100]!r} on {cloud}, as far as the gateway knows."
    return ApiError(404, message, code="model_not_found", param="model", retry=False)


async def collect(data: Data) -> bytes:
    """The whole body: a cloud is told the model in the path, and some sign what comes after it."""
    return data if isinstance(data, bytes) else b"".join([piece async for piece in data])


async def prepared(make: Callable[[bytes], T], body: bytes) -> T:
    """`make` of the body, off the event loop if that may take a while."""
    return make(body) if len(body) <= _LARGE_BODY else await asyncio.to_thread(make, body)


def fields_of(body: bytes) -> Fields:
    """The body's fields, each as it came; of one that comes twice, the last. Raises ApiError (400)."""
    if body.count(b'":') > _MOST_KEYS:
        raise errors.bad_body(f"it has more than {_MOST_KEYS} keys")
    try:
        return _FIELDS.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise errors.bad_body(str(error)[:200]) from error


def raw(value: Any) -> msgspec.Raw:
    """A value for a field."""
    return msgspec.Raw(msgspec.json.encode(value))


def model_of(fields: Fields) -> str:
    """The model that is asked for; `models_in` has seen that there is one."""
    return msgspec.json.decode(fields["model"], type=str)


def betas_of(asked: Asked, known: frozenset[str]) -> list[str]:
    """Of the betas that the request names, those that the cloud knows."""
    header = ",".join(value.decode("latin-1") for name, value in asked.headers if name == b"anthropic-beta")
    return known_betas(header, known)


def streams(fields: Fields) -> bool:
    """Whether the answer is to be a stream."""
    return bytes(fields.get("stream", b"")).strip() == b"true"


async def send(http: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
    """Raises as aiohttp does."""
    url = URL(request.url, encoded=True)
    return await http.post(url, data=request.body, headers=request.headers, allow_redirects=False)


async def body_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The answer's body, at most so many bytes of it. Raises as aiohttp does."""
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > most:
            response.close()
            break
    return bytes(found[:most])


async def failed(
    response: aiohttp.ClientResponse, cloud: str, read: Callable[[aiohttp.ClientResponse, bytes], Refused]
) -> Reply:
    """An answer that is an error, as the Messages API would put it. Raises as aiohttp does."""
    refused = read(response, await body_of(response, _LARGEST_ERROR))
    status = response.status
    message = refused.message
    if status in (401, 403):
        log.error("%s refuses the credential", cloud, extra={"fields": {"status": status, "reason": refused.reason}})
        message = f"{cloud} refuses this with the gateway's credential ({refused.reason or status})."
    elif status == 424:  # the model's fault and not the request's: 424 would not be tried again
        status = 502
    return error(status, message or f"{cloud} answered {status}.", headers_of(response))


def error(status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Whole:
    """An error of the Messages API's. `headers` that go along, without the body's."""
    return Whole(status, (_JSON, *headers), error_body(type_of(status), message))


def error_body(kind: str, message: str) -> bytes:
    """The error object in bytes."""
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message[:_LONGEST_MESSAGE]}})


def type_of(status: int) -> str:
    """The Messages API's word for an error of this status."""
    return TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def headers_of(response: aiohttp.ClientResponse) -> tuple[tuple[bytes, bytes], ...]:
    """What is worth knowing of the answer's headers beside those of its body."""
    found = []
    for name, value in response.raw_headers:
        lower = name.lower()
        if lower in (b"x-amzn-requestid", b"request-id"):
            found.append((b"request-id", value))
        elif lower == b"retry-after":
            found.append((lower, value))
    return tuple(found)


def answer(value: Any, headers: tuple[tuple[bytes, bytes], ...]) -> Whole:
    """A good answer."""
    return Whole(200, (_JSON, *headers), msgspec.json.encode(value))
