"""API keys. Only their SHA-256 hashes are kept; without any key configured, the endpoint is open.

Unless keys are required: then it is closed as long as there are none.

Open even with keys: `/health` and `/metrics` (probes and scrapers have no key; both show numbers, never a
conversation's id or text), `/docs` and `/openapi.json`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from claude_worker.openai.errors import ApiError

_LOOPBACK = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?")
_CHALLENGE = {"www-authenticate": "Bearer"}


class ApiKeys:
    """The keys that may use the endpoint."""

    def __init__(self, keys: Iterable[str] = (), *, required: bool = False) -> None:
        self._required = required
        self.replace(keys)

    def replace(self, keys: Iterable[str]) -> None:
        """From now on it is these. From any thread."""
        self._hashes = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @property
    def open(self) -> bool:
        """Whether everybody may use the endpoint."""
        return not self._hashes and not self._required

    def check(self, headers: Mapping[bytes, bytes], *, required: bool = False) -> None:
        """Pass a request with a valid key (header names in lower case). Raises ApiError (401, 403).

        `required`: there are keys of another kind, so that without any here none is valid.
        """
        known_hashes = self._hashes
        if not known_hashes and not self._required and not required:
            _refuse_web_pages(headers)
            return
        key = given_key(headers)
        if not key:
            raise ApiError(
                401,
                "No API key was given. Send it in the header 'Authorization: Bearer <key>', or in 'x-api-key'.",
                code="missing_api_key",
                headers=_CHALLENGE,
            )
        given = hashlib.sha256(key).digest()
        # Every hash is compared, and each in constant time: how long it takes tells nothing about the keys.
        if not sum(hmac.compare_digest(given, known) for known in known_hashes):
            raise ApiError(401, "The API key is not valid.", code="invalid_api_key", headers=_CHALLENGE)


def given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request brings: as a bearer token, or in `x-api-key`, where Anthropic's clients send it."""
    authorization = headers.get(b"authorization")
    scheme, _, key = (authorization or b"").strip().partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        key = headers.get(b"x-api-key", b"")
    return key.strip()


def _refuse_web_pages(headers: Mapping[bytes, bytes]) -> None:
    """Raises ApiError (403) for another site's page: it may send a plain POST here, and it would run commands.

    A name other than this machine's in both `Host` and `Origin` is a page that had its own name point here.
    """
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    if origin is None or (origin == b"http://" + host and _LOOPBACK.fullmatch(host)):  # the latter: our own /docs
        return
    raise ApiError(403, "Requests from web pages are refused while no API_KEYS are set.", code="origin_not_allowed")
