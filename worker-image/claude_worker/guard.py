"""Who may speak to this worker: whoever holds its bearer token. Only the token's SHA-256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import sys
from pathlib import Path

from claude_crds.settings import SettingsError
from claude_worker.settings import WorkerSettings

_SCHEME = "Bearer "


class Guard:
    """Checks `Authorization` headers against `digest`, the SHA-256 of the token; without one everybody may pass."""

    def __init__(self, digest: bytes | None) -> None:
        self._digest = digest

    def admits(self, authorization: str) -> bool:
        """Whether this header's value is `Bearer` and the token; the time it takes says nothing about the token."""
        if self._digest is None:
            return True
        if not authorization.startswith(_SCHEME):
            return False
        # A header is Latin-1 on the wire; undoing that gives the bytes that were sent.
        given = hashlib.sha256(authorization[len(_SCHEME) :].encode("latin-1", "replace")).digest()
        return hmac.compare_digest(given, self._digest)


def read_guard(settings: WorkerSettings) -> Guard:
    """The guard that the settings ask for. Blocks until the token is there when it comes on standard input.

    Raises SettingsError (two tokens, an empty one, or none on an address that others can reach) and OSError.
    """
    if settings.token_file and settings.token_sha256:
        raise SettingsError("TOKEN_FILE and TOKEN_SHA256 are both set: only one of them may say what the token is")
    if settings.token_sha256:
        return Guard(bytes.fromhex(settings.token_sha256))
    if settings.token_file:
        return Guard(hashlib.sha256(_read_token(settings.token_file)).digest())
    if not _loopback(settings.host):
        raise SettingsError(
            f"HOST={settings.host!r}: without TOKEN_SHA256 or TOKEN_FILE the worker obeys everybody, so it may listen "
            "on a loopback address only"
        )
    return Guard(None)


def _read_token(name: str) -> bytes:
    token = sys.stdin.readline() if name == "-" else Path(name).read_text()
    if not token.strip():
        raise SettingsError(f"TOKEN_FILE={name!r}: holds no token")
    return token.strip().encode()


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
