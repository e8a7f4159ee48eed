"""Object names derived from what a client sends.

A conversation id may be any Unicode text; a name is a DNS-1123 label. The slug is for the eye only: the hash, over
tenant and id, is what tells two conversations apart.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata

CONVERSATION_ID_MAX = 256
"""Longest conversation id accepted, in characters."""

_SLUG_MAX = 30
_HASH_LENGTH = 10


def slug(text: str) -> str:
    """The part of `text` that fits a DNS label, at most 30 characters; may be empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text)[:_SLUG_MAX].strip("-")


@functools.lru_cache(maxsize=4096)
def session_name(tenant: str, conversation_id: str) -> str:
    """`conv-<slug>-<hash>`: at most 46 characters, the same for the same (tenant, id) on every router.

    The hash is base32 of SHA-256 over both, length-prefixed so that no pair can be read as another. It has 50 bits: two
    that share it can be searched for, so whoever finds a session by its name compares tenant and id as well.
    """
    tenant_bytes = tenant.encode("utf-8", "surrogatepass")
    seed = b"%d:%s:%s" % (len(tenant_bytes), tenant_bytes, conversation_id.encode("utf-8", "surrogatepass"))
    digest = hashlib.sha256(seed).digest()
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    number = int.from_bytes(digest[:8], "big")
    tail = "".join(alphabet[(number >> (5 * i)) & 31] for i in range(_HASH_LENGTH))
    return "-".join(part for part in ("conv", slug(conversation_id), tail) if part)
