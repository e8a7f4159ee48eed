"""Claude on Amazon Bedrock, for a worker that speaks the Messages API.

The model goes into the path, `anthropic_version` and the betas into the body; requests are signed (SigV4), or carry a
Bedrock API key; a stream comes in AWS's own frames.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from claude_router.gateway import cloud
from claude_router.gateway.bedrock_stream import EventStream
from claude_router.gateway.cloud import Refused, Request
from claude_router.gateway.cloud_models import Ids, bedrock_id
from claude_router.gateway.upstream import Asked, Data, Reply

BEDROCK = "Bedrock"
VERSION = "bedrock-2023-05-31"
_LARGEST_COUNT = 4096
Sign = Callable[[Request], dict[str, str]]
"""The headers of a request, with what opens it."""


@dataclass(frozen=True, slots=True)
class Bedrock:
    """An account in a region. `prefix` says where models may run, `betas` which ones the requests may name."""

    url: str
    sign: Sign = field(repr=False)
    ids: Ids
    prefix: str
    betas: frozenset[str]

    def at(self, url: str) -> Bedrock:
        """See Upstream."""
        return replace(self, url=url)

    async def ask(self, http: aiohttp.ClientSession, asked: Asked, data: Data) -> Reply:
        """See Upstream."""
        if not asked.route.has_body:
            raise cloud.not_offered(BEDROCK)
        counts = not asked.route.metered
        make = self._count if counts else self._invoke
        request = await cloud.prepared(partial(make, asked), await cloud.collect(data))
        response = await cloud.send(http, request)
        if response.status != 200:
            return await cloud.failed(response, BEDROCK, _refused)
        if counts:
            return await _counted(response)
        return _Answer(response)

    def _invoke(self, asked: Asked, body: bytes) -> Request:
        fields = cloud.fields_of(body)
        model = cloud.model_of(fields)
        there = bedrock_id(model, self.ids, self.prefix)
        if there is None:
            raise cloud.unknown_model(model, BEDROCK)
        streamed = cloud.streams(fields)
        call = "invoke-with-response-stream" if streamed else "invoke"
        accept = "application/vnd.amazon.eventstream" if streamed else "application/json"
        return self._request(there, call, self._body(asked, fields), accept)

    def _count(self, asked: Asked, body: bytes) -> Request:
        """Counting needs a model and no profile that says where it runs."""
        fields = cloud.fields_of(body)
        model = cloud.model_of(fields)
        there = bedrock_id(model, {}, "") or bedrock_id(model, self.ids, "")
        if there is None:
            raise cloud.unknown_model(model, BEDROCK)
        fields.setdefault("max_tokens", cloud.raw(1))  # the body is checked like one that is to be answered
        inner = b64encode(self._body(asked, fields)).decode()
        return self._request(there, "count-tokens", msgspec.json.encode({"input": {"invokeModel": {"body": inner}}}))

    def _body(self, asked: Asked, fields: cloud.Fields) -> bytes:
        for name in ("model", "stream", "anthropic_beta"):
            fields.pop(name, None)
        fields["anthropic_version"] = cloud.raw(VERSION)
        if betas := cloud.betas_of(asked, self.betas):
            fields["anthropic_beta"] = cloud.raw(betas)
        return msgspec.json.encode(fields)

    def _request(self, model: str, call: str, body: bytes, accept: str = "application/json") -> Request:
        url = f"{self.url}/model/{quote(model, safe='')}/{call}"
        request = Request(url, {"Content-Type": "application/json", "Accept": accept}, body)
        return request._replace(headers={**request.headers, "Accept-Encoding": "identity", **self.sign(request)})


def bearer(key: str) -> Sign:
    """By a Bedrock API key."""
    return lambda request: {**request.headers, "Authorization": f"Bearer {key}"}


def sigv4(key_id: str, secret: str, session_token: str, region: str) -> Sign:
    """By AWS's signature. Raises ImportError."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415  # only who uses Bedrock needs botocore
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415

    signer = SigV4Auth(Credentials(key_id, secret, session_token or None), "bedrock", region)

    def sign(request: Request) -> dict[str, str]:
        made: Any = AWSRequest("POST", request.url, headers=request.headers, data=request.body)
        signer.add_auth(made)
        return {str(name): str(value) for name, value in made.headers.items()}

    return sign


class _Answer:
    """A good answer as the Messages API gives it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.close = response.close
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("application/vnd.amazon.eventstream"):
            self.content: Any = EventStream(response.content)
            kind = "text/event-stream; charset=utf-8"
        else:
            self.content = response.content
        self.raw_headers = ((b"content-type", kind.encode("latin-1")), *cloud.headers_of(response))


async def _counted(response: aiohttp.ClientResponse) -> Reply:
    body = await cloud.body_of(response, _LARGEST_COUNT)
    try:
        count = msgspec.json.decode(body, type=dict[str, int])["inputTokens"]
    except (msgspec.MsgspecError, ValueError, KeyError):
        return cloud.error(502, f"{BEDROCK} gave no count of tokens.", cloud.headers_of(response))
    return cloud.answer({"input_tokens": count}, cloud.headers_of(response))


class _Error(msgspec.Struct):
    message: str | None = None
    upper: str | None = msgspec.field(default=None, name="Message")


def _refused(response: aiohttp.ClientResponse, body: bytes) -> Refused:
    reason = response.headers.get("x-amzn-ErrorType", "").partition(":")[0][:100]
    try:
        found = msgspec.json.decode(body, type=_Error)
    except (msgspec.MsgspecError, ValueError):
        return Refused("", reason)
    return Refused(found.message or found.upper or "", reason)
