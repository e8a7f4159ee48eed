"""300 hostile requests against the gateway, as `gateway/serve.py` serves it, with pods' tokens that are verified."""

from __future__ import annotations

import base64
import hmac
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
import uvicorn
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from claude_router.gateway import prices
from claude_router.gateway.app import GatewayApp
from claude_router.gateway.internal import Internal
from claude_router.gateway.ledger import Ledger
from claude_router.gateway.meter import Meter
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.relay import Relay
from claude_router.gateway.serve import server as server_of
from claude_router.gateway.spending import Spending
from claude_router.gateway.teams import Policy, StaticTeams
from claude_router.gateway.upstreams import Upstreams
from hostile.attacks import make
from hostile.laws import BOUNDS, PATIENCE, Laws, besiege, serving, wrong_anthropic, wrong_either
from hostile.target import Target
from hostile.wire import Answer, Attack, send
from router.gateway.issuer import ISSUER, Issuer
from router.gateway.test_workers import POD_KIND, SESSION_KIND, World, pod, session, world

SEED = 7
REAL_KEY = "sk-ant-the-real-key"
INTERNAL_TOKEN = "token-of-the-router"
LARGEST = 1 << 20
_MESSAGE = {
    "model": "claude-opus-5",
    "max_tokens": 10,
    "stream": False,
    "system": "x",
    "metadata": {"user_id": "x"},
    "messages": [{"role": "user", "content": "hello"}],
    "tools": [{"name": "t", "input_schema": {"type": "object"}}],
}


def _wrong(answer: Answer) -> str:
    by_the_model = answer.body.startswith(b"Duplicate 'Content-Type'")  # its HTTP library refuses that
    return "" if by_the_model else wrong_anthropic(answer)


class Model:
    """Answers everything, and knows the real key."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        keys = request.headers.getall("x-api-key", [])
        if keys != [REAL_KEY] or "authorization" in request.headers:
            self.wrong.append(f"credentials: {len(keys)} keys for {request.path}")
        usage = {"input_tokens": 3, "output_tokens": 2}
        return web.json_response({"id": "msg_1", "model": "claude-opus-5", "usage": usage})


@dataclass
class Gate:
    """A gateway on two ports, and what is behind it."""

    model: Model
    workers: tuple[uvicorn.Server, int]
    internal: tuple[uvicorn.Server, int]
    world: World


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[Gate]:
    (folder / "upstream").mkdir()
    (folder / "upstream" / "ANTHROPIC_API_KEY").write_text(REAL_KEY + "\n")
    model, metrics, spending = Model(), GatewayMetrics(), Spending()
    ledger = Ledger(folder / "ledger.sqlite3")
    ledger.open()
    behind = web.ServerRunner(web.Server(model.answer))
    await behind.setup()
    await web.TCPSite(behind, "127.0.0.1", 0).start()
    upstreams = Upstreams(folder / "upstream", folder / "teams", f"http://127.0.0.1:{behind.addresses[0][1]}")
    upstreams.look()
    policies = StaticTeams({"red": Policy(models=("claude-opus-5",))})
    relay = Relay(Meter(ledger, prices.read(), spending, metrics, policies.known), metrics)
    inside = Internal(
        folder / "ledger.sqlite3", metrics, INTERNAL_TOKEN, problem=lambda: "", waiting=lambda: ledger.waiting
    )
    try:
        async with world((POD_KIND, pod()), (SESSION_KIND, session())) as cluster:
            app = GatewayApp(cluster.cluster.credentials, policies, upstreams, relay, metrics, max_body_bytes=LARGEST)
            first, second = server_of(app, 1, BOUNDS), server_of(inside.app(), 1, BOUNDS)
            async with serving(first) as port, serving(second) as internal_port:
                yield Gate(model, (first, port), (second, internal_port), cluster)
    finally:
        await relay.close()
        ledger.close()
        await behind.cleanup()


def bad_tokens(issuer: Issuer) -> tuple[bytes, ...]:
    """Tokens that the API server did not make, or made for somebody else, or that are over."""
    claims = {
        "iss": ISSUER,
        "aud": ["claude-code-api-gateway"],
        "exp": issuer.now + 600,
        "kubernetes.io": {"namespace": "ns", "pod": {"name": "pod-1", "uid": "uid-1"}},
    }
    public = issuer.keys["k1"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    stranger = Issuer(now=issuer.now)
    stranger.add("k1")
    good = issuer.token()
    head, payload, signature = good.split(".")
    deep = "[" * 50_000 + "]" * 50_000
    tokens = [
        jwt.encode(claims, "", algorithm="none", headers={"kid": "k1"}),
        _hs256(claims, pem),
        stranger.token(),
        issuer.token(aud=["other"]),
        issuer.token(exp=issuer.now - 60),
        issuer.token(nbf=issuer.now + 600),
        issuer.token(uid="other"),
        issuer.token(pod="pod-2"),
        issuer.token(exp="soon"),
        _signed(issuer, **{"kubernetes.io": {"namespace": "other", "pod": {"name": "pod-1", "uid": "uid-1"}}}),
        _signed(issuer, **{"kubernetes.io": [1]}),
        _signed(issuer, iss=["x"]),
        _signed(issuer, aud={"a": 1}),
        _signed(issuer, nbf=[]),
        _signed(issuer, exp=10**400),
        _signed(issuer, aud=[[]]),
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}..{signature}",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        good + "A",
        good[:-8],
        f".{payload}.{signature}",
        f"{_part(deep)}.{payload}.{signature}",
        f"{_part('[]')}.{payload}.{signature}",
        f"{_part(json.dumps({'alg': 'RS256', 'kid': {}}))}.{payload}.{signature}",
        f"{_part(json.dumps({'alg': ['RS256'], 'kid': 'k1'}))}.{payload}.{signature}",
        f"{_part(json.dumps({'alg': 'RS256', 'kid': 'k1', 'crit': ['x'], 'b64': False}))}.{payload}.{signature}",
        f"{_part(json.dumps({'alg': 'RS256', 'kid': '../../etc/passwd', 'jku': 'http://evil/'}))}.{payload}.{signature}",
        f"{_part(json.dumps({'alg': 'RS256', 'kid': 'k1', 'jwk': {'kty': 'oct', 'k': 'eA'}}))}.{payload}.{signature}",
    ]
    return tuple(token.encode() for token in tokens)


def _signed(issuer: Issuer, **claims: object) -> str:
    """With claims that the library would not write."""
    payload = issuer.token().split(".")[1]
    whole = {**json.loads(base64.urlsafe_b64decode(payload + "==")), **claims}
    return jwt.api_jws.encode(json.dumps(whole).encode(), issuer.keys["k1"], "RS256", {"kid": "k1"})


def _part(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _hs256(claims: dict[str, object], key: bytes) -> str:
    """Signed with the public key as if it were a shared secret; the library itself refuses to."""
    signed = f"{_part(json.dumps({'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'}))}.{_part(json.dumps(claims))}"
    mac = hmac.digest(key, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_two_hundred_and_fifty_hostile_requests_of_a_worker(tmp_path: Path) -> None:
    async with gateway(tmp_path) as it:
        token = it.world.fake.issuer.token()
        target = Target(
            turns={
                b"/v1/messages": _MESSAGE,
                b"/v1/messages/count_tokens": _MESSAGE,
                b"/v1/messages?beta=true": _MESSAGE,
            },
            reads=(b"/v1/models", b"/v1/models/claude-opus-5", b"/", b"/usage", b"/metrics"),
            named=(
                (b"GET", b"/v1/models/{}"),
                (b"POST", b"/v1/messages/{}"),
                (b"GET", b"/{}"),
                (b"DELETE", b"/v1/{}"),
                (b"POST", b"/v1/messages?{}"),
                (b"PUT", b"/v1/models/{}"),
                (b"GET", b"/v1/models?after_id={}"),
            ),
            auth=(b"Authorization", b"Bearer " + token.encode()),
            tokens=bad_tokens(it.world.fake.issuer),
            foreign=(b"claude-haiku-4-5", b"conv-b", b"../v1/messages", b"..%2fmessages", b"batches"),
            more=(
                (b"anthropic-version", b"2023-06-01"),
                (b"anthropic-beta", b"x"),
                (b"User-Agent", b"x"),
                (b"x-api-key", b"y"),
                (b"X-Stainless-Retry-Count", b"1"),
                (b"Content-Type", b"application/json"),
                (b"Accept", b"x"),
            ),
            largest_body=LARGEST,
        )
        laws = Laws((REAL_KEY, token, INTERNAL_TOKEN), _wrong)
        server, port = it.workers
        outcomes = await besiege(server, port, make(target, random.Random(SEED), 250), laws, b"/")
        statuses = {answer.status for outcome in outcomes for answer in outcome.answers}
        assert statuses >= {200, 400, 401, 404, 408, 431}
        assert it.model.wrong == []


async def test_no_bad_token_passes(tmp_path: Path) -> None:
    """Each of them, and none is answered as if the gateway did not know."""
    async with gateway(tmp_path) as it:
        for token in bad_tokens(it.world.fake.issuer):
            head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.decode()}\r\n".encode()
            body = json.dumps(_MESSAGE).encode()
            sent = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            outcome = await send(it.workers[1], Attack("token", (sent,)), PATIENCE)
            assert [answer.status for answer in outcome.answers] in ([401], [431]), token
        assert it.model.wrong == []


async def test_fifty_hostile_requests_at_the_internal_port(tmp_path: Path) -> None:
    async with gateway(tmp_path) as it:
        target = Target(
            turns={b"/usage": {"by": "day"}},
            reads=(b"/usage", b"/usage?by=team&since=2030-01-31", b"/livez", b"/readyz", b"/metrics"),
            named=(
                (b"GET", b"/usage?by={}"),
                (b"GET", b"/usage?since={}"),
                (b"GET", b"/usage?team={}"),
                (b"GET", b"/{}"),
                (b"GET", b"/usage?session={}&until={}"),
            ),
            auth=(b"Authorization", b"Bearer " + INTERNAL_TOKEN.encode()),
            tokens=(b"x", it.world.fake.issuer.token().encode()),
            foreign=(b"9" * 400, b"1e400", b"nan", b"0000-00-00", b"9999-12-31T23:59:59-23:59", b"'%20OR%201=1--"),
        )
        server, port = it.internal
        laws = Laws((REAL_KEY, INTERNAL_TOKEN), wrong_either)
        await besiege(server, port, make(target, random.Random(SEED + 1), 50), laws, b"/livez")
