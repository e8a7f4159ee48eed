"""The bearer token of each worker: known to router and operator, checkable by the worker, kept nowhere.

It is derived from one key that no worker has, and from the pod's name, which no two pods share. The
pod's manifest carries the token's SHA-256: as good for checking a token as the token itself, and of no use for making
one. So no Secret per worker has to be written, read, mounted or cleaned up.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

SHORTEST_KEY_BYTES = 32


class KeyFileError(Exception):
    """The key cannot be read or is too short; the message says which."""


def read_key(path: Path) -> bytes:
    """The key in that file, without white space around it. Raises KeyFileError. Blocks."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise KeyFileError(f"the workers' key cannot be read: {error}") from error
    if len(key) < SHORTEST_KEY_BYTES:
        raise KeyFileError(f"the workers' key in {path} must be of at least {SHORTEST_KEY_BYTES} bytes")
    return key


def worker_token(key: bytes, namespace: str, pod: str) -> str:
    """The token of the worker in this pod: 43 characters."""
    digest = hmac.digest(key, f"{namespace}/{pod}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def usage_token(key: bytes) -> str:
    """What the gateway's `/usage` wants of the router: 43 characters, and no worker's, since those are of pods."""
    return base64.urlsafe_b64encode(hmac.digest(key, b"usage", hashlib.sha256)).rstrip(b"=").decode()


def token_hash(token: str) -> str:
    """What the worker checks it by, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()
