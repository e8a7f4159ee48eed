"""Service account tokens, checked here against the API server's public keys: no request to it for each call.

The keys are fetched at the start, anew when a token names one that is not known (at most every RETRY_SECONDS,
whatever is sent), and every REFRESH_SECONDS, so that one which was withdrawn is not believed for ever. While the API
server is away the last ones hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec

from claude_router.gateway import errors

log = logging.getLogger(__name__)

AUDIENCE = "claude-code-api-gateway"
RETRY_SECONDS = 10.0
_FIRST_SECONDS = 1.0
REFRESH_SECONDS = 300.0
_LEEWAY_SECONDS = 10.0
"""Between the clocks of two nodes."""
_ALGORITHMS = frozenset({"RS256", "ES256", "ES384", "ES512"})
_MOST_KNOWN = 20_000


class _PodName(msgspec.Struct):
    name: str
    uid: str


class _Kubernetes(msgspec.Struct):
    namespace: str
    pod: _PodName


class _Claims(msgspec.Struct):
    exp: float
    bound: _Kubernetes = msgspec.field(name="kubernetes.io")


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a token is bound to; `expires` is Unix time."""

    namespace: str
    name: str
    uid: str
    expires: float


class _Unavailable(Exception):
    """The keys cannot be had."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The issuer's name, and its public keys by their ids."""

    issuer: str
    keys: dict[str, Any]


def read_keys(discovery: bytes, jwks: bytes, issuer: str = "") -> KeySet:
    """From the two documents of the API server. Raises ValueError. `issuer`, if given, is the one to trust."""
    found = str(msgspec.json.decode(discovery, type=dict[str, Any]).get("issuer", ""))
    if not (issuer or found):
        raise ValueError("the API server names no issuer")
    keys: dict[str, Any] = {}
    for entry in msgspec.json.decode(jwks, type=dict[str, Any]).get("keys", []):
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, AttributeError, TypeError):
            continue  # one of a kind that we do not use
        if key.key_id and key.algorithm_name in _ALGORITHMS:
            keys[key.key_id] = key
    return KeySet(issuer or found, keys)


class TokenVerifier:
    """See the module. `fetch` gives discovery document and key set, as bytes, or raises."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[tuple[bytes, bytes]]],
        *,
        audience: str = AUDIENCE,
        issuer: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._audience = audience
        self._issuer = issuer
        self._clock = clock
        self._monotonic = monotonic
        self._keys: KeySet | None = None
        self._tried_at: float | None = None
        self._had_at = 0.0
        self._fetching = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None
        self._known: dict[bytes, PodIdentity] = {}

    @property
    def problem(self) -> str:
        """Why no token can be checked; empty once keys are there, which then stay while the API server is away."""
        return "" if self._keys is not None else "the API server's public keys were not had yet"

    async def prepare(self) -> None:
        """Fetch the keys before the first token comes; returns once they are there."""
        while self._keys is None:
            with suppress(_Unavailable):
                await self._fetched()
                return
            await asyncio.sleep(_FIRST_SECONDS)

    async def verify(self, token: str) -> PodIdentity:
        """The pod that the token is bound to. Raises ApiError (401, 503)."""
        self._refresh_if_old()
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._decode(token, await self._key_of(token))
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[digest] = known
        if self._clock() >= known.expires + _LEEWAY_SECONDS:
            self._known.pop(digest, None)
            raise errors.bad_credential("it has expired")
        return known

    async def _key_of(self, token: str) -> tuple[Any, str]:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError) as error:
            raise errors.bad_credential("it is no token") from error
        if not isinstance(kid, str):
            raise errors.bad_credential("it names no key")
        keys = self._keys
        if keys is None or kid not in keys.keys:
            try:
                keys = await self._fetched()
            except _Unavailable as error:
                raise errors.not_ready("the API server's keys cannot be had") from error
        if kid not in keys.keys:
            raise errors.bad_credential("its key is not known")
        return keys.keys[kid], keys.issuer

    def _decode(self, token: str, found: tuple[Any, str]) -> PodIdentity:
        key, issuer = found
        now = self._clock()
        try:
            # The time is judged here, by our clock.
            claims = jwt.decode(
                token, key.key, algorithms=[key.algorithm_name], audience=self._audience, issuer=issuer,
                options={"require": ["exp", "aud", "iss"], "verify_exp": False, "verify_nbf": False,
                         "verify_iat": False},
            )  # fmt: skip
            read = msgspec.convert(claims, _Claims)
            starts = msgspec.convert(claims.get("nbf", 0.0), float)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError) as error:
            raise errors.bad_credential(_why(error)) from error
        if starts > now + _LEEWAY_SECONDS:
            raise errors.bad_credential("it is not valid yet")
        return PodIdentity(read.bound.namespace, read.bound.pod.name, read.bound.pod.uid, read.exp)

    async def _fetched(self) -> KeySet:
        """The keys, fetched now unless that was tried a moment ago. Raises _Unavailable if there are none at all."""
        async with self._fetching:
            now = self._monotonic()
            wait = RETRY_SECONDS if self._keys is not None else _FIRST_SECONDS
            if self._tried_at is None or now - self._tried_at >= wait:
                self._tried_at = now
                try:
                    self._keys = read_keys(*await self._fetch(), self._issuer)
                except Exception as error:
                    log.warning("the API server's keys could not be fetched: %s", error)
                else:
                    self._had_at = now
                    self._known.clear()
            if self._keys is None:
                raise _Unavailable
            return self._keys

    def _refresh_if_old(self) -> None:
        old = self._keys is not None and self._monotonic() - self._had_at >= REFRESH_SECONDS
        if old and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._again())

    async def _again(self) -> None:
        await self._fetched()


def _why(error: Exception) -> str:
    match error:
        case jwt.InvalidAudienceError() | jwt.MissingRequiredClaimError(claim="aud"):
            return "it is for somebody else"
        case jwt.InvalidIssuerError():
            return "somebody else made it"
        case jwt.InvalidSignatureError() | jwt.InvalidAlgorithmError():
            return "its signature is wrong"
        case msgspec.ValidationError():
            return "it is bound to no pod"
        case _:
            return "it is no token of a pod"
