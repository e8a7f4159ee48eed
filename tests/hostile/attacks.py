"""Malformed and hostile requests, made from a seed: the same seed, the same bytes.

attacks = make(target, random.Random(6), 400)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from hostile import bodies, heads, names, slow
from hostile.target import Target
from hostile.wire import Attack

Maker = Callable[[Target, random.Random], Attack]


def make(target: Target, rng: random.Random, count: int) -> Iterator[Attack]:
    """So many attacks, of each kind its share, in an order of their own."""
    kinds = list(_KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        attack = kind(target, rng)
        yield Attack(f"{number} {kind.__name__}: {attack.name}", attack.pieces, attack.pause, attack.close, attack.slow)


_KINDS: tuple[Maker, ...] = (
    heads.request_line,
    heads.header,
    heads.length,
    bodies.chunked,
    bodies.typed,
    bodies.text,
    names.name,
    heads.header,
    names.token,
    bodies.typed,
    bodies.text,
    heads.header,
    slow.slow,
    slow.pipelined,
    slow.early_close,
)
