"""API keys. Only their SHA-256 hashes are kept; without any key configured, the endpoint is open.

Open even with keys: `/health` and `/metrics` (probes and scrapers have no key; both show numbers, never a
conversation's id or text), `/docs` and `/openapi.json`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from claude_worker.openai.errors import ApiError

_CHALLENGE = {"www-authenticate": "Bearer"}


class ApiKeys:
    """The keys that may use the endpoint."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def check(self, authorization: bytes | None) -> None:
        """Pass a valid `Authorization` header. Raises ApiError (401) otherwise."""
        if not self._hashes:
            return
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise ApiError(
                401,
                "No API key was given. Send it in the header 'Authorization: Bearer <key>'.",
                code="missing_api_key",
                headers=_CHALLENGE,
            )
        given = hashlib.sha256(key.strip()).digest()
        # Every hash is compared, and each in constant time: how long it takes tells nothing about the keys.
        if not sum(hmac.compare_digest(given, known) for known in self._hashes):
            raise ApiError(401, "The API key is not valid.", code="invalid_api_key", headers=_CHALLENGE)
