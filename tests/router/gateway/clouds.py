"""Bedrock and Vertex AI, as far as a client can tell, in front of a Messages API of the test's own.

Each checks a request as the cloud would: its signature or token, its path, and what its body must and must not hold.
The Anthropic SDK's own clients for the clouds are held to them as well; see test_clouds.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import struct
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Json = dict[str, Any]
Events = Callable[[bytes], bytes]
_ANSWERED = frozenset({"bedrock-2023-05-31", "vertex-2023-10-16", "2026-10-21"})
"""Versions that are taken; the last one is what the Anthropic SDK says to either."""
_SAME_SECONDS = 300.0


class Refusal(Exception):
    """An error of the cloud's own."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass
class Seen:
    """A request that was accepted. `body` for the model, `model` as the path had it."""

    path: str
    model: str
    body: Json
    headers: dict[str, str]


_KNOWN_BETAS = frozenset({"interleaved-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27"})


@dataclass
class Cloud:
    """What both do. `refusing` is raised in the place of the next answer; `broken` bytes end the next stream."""

    inner: ASGIApp
    seen: list[Seen] = field(default_factory=list)
    refusing: Refusal | None = None
    broken: bytes | None = None
    known_betas: frozenset[str] = _KNOWN_BETAS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _read(receive)
        try:
            await self.answer(scope, body, send)
        except Refusal as refusal:
            headers, error = self.error(refusal)
            await _whole(send, refusal.status, error, headers)

    async def answer(self, scope: Scope, body: bytes, send: Send) -> None:
        raise NotImplementedError

    def error(self, refusal: Refusal) -> tuple[Json, Any]:
        raise NotImplementedError

    def take(self, scope: Scope, model: str, body: Json, headers: dict[str, str], betas: Sequence[str]) -> None:
        """Note it, if its body is one that the cloud would take."""
        if body.get("anthropic_version") not in _ANSWERED:
            raise Refusal(400, "ValidationException", "anthropic_version: Field required")
        if unknown := {beta for beta in betas if beta not in self.known_betas}:
            raise Refusal(400, "ValidationException", f"invalid beta flag {unknown}")
        if "max_tokens" not in body:
            raise Refusal(400, "ValidationException", "max_tokens: Field required")
        self.seen.append(Seen(scope["raw_path"].decode(), model, body, headers))
        refusing, self.refusing = self.refusing, None
        if refusing is not None:
            raise refusing

    async def through(self, body: Json, send: Send, events: Events | None = None, kind: str = "") -> None:
        """The inner model's answer, each of its chunks changed by `events`."""
        data = json.dumps(body).encode()
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:  # the model listens for its client's going; it never goes
                await asyncio.Event().wait()
            given = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start" and events is not None:
                message = {**message, "headers": [(b"content-type", kind.encode()), (b"x-amzn-requestid", b"req-aws")]}
            elif message["type"] == "http.response.body" and events is not None:
                message = {**message, "body": events(message.get("body", b""))}
                if not message.get("more_body", False) and self.broken is not None:
                    message["body"], self.broken = message["body"] + self.broken, None
            await send(message)

        path = "/v1/messages"
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await self.inner({"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
                          "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
                          "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1)},
                         receive, changed)  # fmt: skip


def frame(payload: bytes, **headers: str) -> bytes:
    """A frame of AWS's event stream; a header's name is given without its colon and with `_` for `-`."""
    packed = b""
    for name, value in headers.items():
        key, text = f":{name.replace('_', '-')}".encode(), value.encode()
        packed += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(text)) + text
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack(">I", zlib.crc32(message))


def chunk(event: bytes) -> bytes:
    """One event of the Messages API in a frame; `p` is padding, as Bedrock's has it."""
    payload = json.dumps({"bytes": b64encode(event).decode(), "p": "abcdefgh"}).encode()
    return frame(payload, message_type="event", event_type="chunk", content_type="application/json")


def framed(data: bytes) -> bytes:
    """Whole Server-Sent Events as frames."""
    return b"".join(chunk(line[6:]) for line in data.splitlines() if line.startswith(b"data: "))


@dataclass
class FakeBedrock(Cloud):
    """Keys by their ids, and Bedrock API keys."""

    secrets: dict[str, str] = field(default_factory=dict)
    api_keys: set[str] = field(default_factory=set)
    session_token: str = ""
    region: str = "eu-west-1"

    _PATH = re.compile(r"/model/([^/]+)/(invoke|invoke-with-response-stream|count-tokens)")

    async def answer(self, scope: Scope, body: bytes, send: Send) -> None:
        headers = _headers(scope)
        self._check(scope, headers, body)
        found = self._PATH.fullmatch(scope["raw_path"].decode())
        if scope["method"] != "POST" or scope["query_string"] or not found:
            raise Refusal(404, "UnknownOperationException", "")
        model, call = unquote(found[1]), found[2]
        if not re.fullmatch(r"(eu\.)?anthropic\.claude-[a-z0-9:.-]+|arn:aws:bedrock:[a-z0-9:/-]+", model):
            raise Refusal(400, "ValidationException", "The provided model identifier is invalid.")
        asked = json.loads(body)
        if call == "count-tokens":
            inner = json.loads(b64decode(asked["input"]["invokeModel"]["body"]))
            self.take(scope, model, inner, headers, inner.get("anthropic_beta", []))
            await _whole(send, 200, {"inputTokens": len(json.dumps(inner["messages"]))})
            return
        for name in ("model", "stream"):
            if name in asked:
                raise Refusal(400, "ValidationException", f"{name}: Extra inputs are not permitted")
        self.take(scope, model, asked, headers, asked.get("anthropic_beta", []))
        named = {**asked, "model": re.sub(r".*anthropic\.", "", model)}
        if call == "invoke":
            await self.through(named, send)
        else:
            kind = "application/vnd.amazon.eventstream"
            await self.through({**named, "stream": True}, send, framed, kind)

    def error(self, refusal: Refusal) -> tuple[Json, Any]:
        more = ":http://internal.amazon.com/coral/com.amazon.bedrock/"
        return {"x-amzn-errortype": refusal.reason + more, "x-amzn-requestid": "req-aws"}, {"message": refusal.message}

    def _check(self, scope: Scope, headers: dict[str, str], body: bytes) -> None:
        given = headers.get("authorization", "")
        if given.removeprefix("Bearer ") in self.api_keys:
            return
        parts = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8}/([^/]+)/bedrock/aws4_request), "
                             r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})", given)  # fmt: skip
        if not parts or parts[1] not in self.secrets or parts[3] != self.region:
            raise Refusal(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        names = parts[4].split(";")
        when = headers["x-amz-date"]
        age = abs(time.time() - _unix(when))
        if not {"host", "x-amz-date"} <= set(names) or names != sorted(names) or age > _SAME_SECONDS:
            raise Refusal(403, "InvalidSignatureException", "Signature expired")
        if headers.get("x-amz-security-token", "") != self.session_token:
            raise Refusal(403, "ExpiredTokenException", "The security token included in the request is expired")
        path = quote(scope["raw_path"].decode(), safe="/-_.~")
        lines = ["POST", path, "", *(f"{name}:{' '.join(headers[name].split())}" for name in names), "", parts[4],
                 hashlib.sha256(body).hexdigest()]  # fmt: skip
        canonical = "\n".join(lines)
        to_sign = f"AWS4-HMAC-SHA256\n{when}\n{parts[2]}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.secrets[parts[1]]}".encode()
        for word in (*parts[2].split("/"), to_sign):
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        if key.hex() != parts[5] or not parts[2].startswith(when[:8]):
            raise Refusal(403, "InvalidSignatureException", f"The Canonical String should have been '{canonical}'")


@dataclass
class FakeVertex(Cloud):
    """A project, and the service account that may use it; also what gives out its tokens, at `/token`."""

    project: str = "proj-1"
    region: str = "europe-west1"
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    tokens: set[str] = field(default_factory=set)
    asked_for_tokens: int = 0
    token_seconds: int = 3600

    _PATH = re.compile(r"/v1/projects/([^/]+)/locations/([^/]+)/publishers/anthropic/models/([^/:]+):(\w+)")

    def key_file(self, url: str) -> str:
        """The service account's, as Google hands it out."""
        private = self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                         serialization.NoEncryption()).decode()  # fmt: skip
        return json.dumps({
            "type": "service_account", "project_id": self.project, "private_key_id": "k1", "private_key": private,
            "client_email": "gateway@proj-1.iam.gserviceaccount.com", "client_id": "1", "token_uri": f"{url}/token",
        })  # fmt: skip

    async def answer(self, scope: Scope, body: bytes, send: Send) -> None:
        if scope["path"] == "/token":
            await self._token(body, send)
            return
        headers = _headers(scope)
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        found = self._PATH.fullmatch(unquote(scope["raw_path"].decode()))
        if not found or (found[1], found[2]) != (self.project, self.region):
            raise Refusal(404, "NOT_FOUND", "Publisher Model was not found")
        model, call = found[3], found[4]
        asked = json.loads(body)
        betas = [beta for beta in headers.get("anthropic-beta", "").split(",") if beta]
        if model == "count-tokens":
            self.take(scope, asked["model"], {"max_tokens": 1, **asked}, headers, betas)
            await _whole(send, 200, {"input_tokens": len(json.dumps(asked["messages"]))})
            return
        if "model" in asked or (call == "streamRawPredict") != asked.get("stream", False):
            raise Refusal(400, "INVALID_ARGUMENT", "model: Extra inputs are not permitted")
        self.take(scope, model, asked, headers, betas)
        await self.through({**asked, "model": model}, send)

    def error(self, refusal: Refusal) -> tuple[Json, Any]:
        error = {"error": {"code": refusal.status, "message": refusal.message, "status": refusal.reason}}
        return {}, [error] if refusal.status == 429 else error

    async def _token(self, body: bytes, send: Send) -> None:
        self.asked_for_tokens += 1
        form = parse_qs(body.decode())
        jwt.decode(form["assertion"][0], self.key.public_key(), algorithms=["RS256"], options={"verify_aud": False})
        claims = jwt.decode(form["assertion"][0], options={"verify_signature": False})
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        if form["grant_type"] != [grant] or "cloud-platform" not in claims["scope"]:
            raise Refusal(400, "invalid_grant", "")
        token = f"ya29.{self.asked_for_tokens}"
        self.tokens.add(token)
        await _whole(send, 200, {"access_token": token, "expires_in": self.token_seconds, "token_type": "Bearer"})


def _unix(stamp: str) -> float:
    return float(time.mktime(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - time.timezone)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in scope["headers"]}


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _whole(send: Send, status: int, value: Any, headers: Json | None = None) -> None:
    data = json.dumps(value).encode()
    told = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    await send({"type": "http.response.start", "status": status,
                "headers": [(name.encode(), text.encode()) for name, text in told.items()]})  # fmt: skip
    await send({"type": "http.response.body", "body": data, "more_body": False})
