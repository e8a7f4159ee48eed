"""What a good request looks like at a server; what attacks it is that, spoiled."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from hostile.wire import request

Header = tuple[bytes, bytes]
JSON: Header = (b"Content-Type", b"application/json")
LONG = 300_000


@dataclass(frozen=True)
class Target:
    """A server's good requests: paths of turns with their bodies, paths that are read, paths that name something.

    `named` have `{}` where the name goes. `tokens` are credentials that must not pass, `foreign` names of others.
    """

    turns: dict[bytes, dict[str, Any]]
    reads: tuple[bytes, ...]
    named: tuple[tuple[bytes, bytes], ...]
    auth: Header
    tokens: tuple[bytes, ...]
    foreign: tuple[bytes, ...] = ()
    more: tuple[Header, ...] = ()
    """Headers that mean something there, with good values."""
    largest_body: int = 1 << 20

    def turn(self, rng: random.Random, *headers: Header, body: bytes | None = None, auth: bool = True) -> bytes:
        """A turn; good unless told otherwise."""
        path = rng.choice(list(self.turns))
        good = json.dumps(self.turns[path]).encode()
        known = [self.auth, JSON] if auth else [JSON]
        return request(b"POST", path, [*known, *headers], good if body is None else body)
