"""An API server that signs service account tokens, as far as the gateway can tell."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from claude_router.gateway.verify import AUDIENCE
from crds.fake_api import FakeApi

ISSUER = "https://kubernetes.default.svc.cluster.local"
NOW = 1_900_000_000.0


@dataclass
class Issuer:
    """Keys by their ids; the documents say those in `published`."""

    now: float = NOW
    keys: dict[str, Any] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    fetched: int = 0
    away: bool = False

    def add(self, kid: str, *, elliptic: bool = False) -> None:
        made = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        self.keys[kid] = made
        self.published.append(kid)

    def token(self, kid: str = "k1", *, pod: str = "pod-1", uid: str = "uid-1", **claims: Any) -> str:
        """A token as the kubelet projects it; a claim that is None is left out."""
        whole = {
            "iss": ISSUER, "aud": [AUDIENCE], "exp": self.now + 600, "iat": self.now, "nbf": self.now,
            "sub": "system:serviceaccount:ns:worker",
            "kubernetes.io": {"namespace": "ns", "pod": {"name": pod, "uid": uid},
                              "serviceaccount": {"name": "worker", "uid": "x"}},
            **claims,
        }  # fmt: skip
        key = self.keys[kid]
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        given = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(given, key, algorithm=algorithm, headers={"kid": kid})

    def documents(self) -> tuple[bytes, bytes]:
        entries = []
        for kid in self.published:
            key = self.keys[kid]
            if isinstance(key, ec.EllipticCurvePrivateKey):
                entry = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
                alg = "ES256"
            else:
                entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
                alg = "RS256"
            entries.append({**entry, "kid": kid, "alg": alg, "use": "sig"})
        discovery = {"issuer": ISSUER, "jwks_uri": "https://elsewhere/openid/v1/jwks"}
        return json.dumps(discovery).encode(), json.dumps({"keys": entries}).encode()

    async def fetch(self) -> tuple[bytes, bytes]:
        self.fetched += 1
        if self.away:
            raise OSError("the API server is away")
        return self.documents()


class SigningApi(FakeApi):
    """The fake API server with an issuer's two documents; its clock is the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.issuer = Issuer(now=time.time())
        self.issuer.add("k1")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        discovery, jwks = self.issuer.documents()
        if request.path == "/.well-known/openid-configuration":
            return web.Response(body=discovery, content_type="application/json")
        if request.path == "/openid/v1/jwks":
            # The real one makes nothing else, though it takes */*.
            if request.headers.get("Accept") not in ("application/jwk-set+json", "*/*"):
                return web.Response(status=406, text="Available representations: application/jwk-set+json")
            return web.Response(body=jwks, content_type="application/jwk-set+json")
        return await super()._handle(request)
