"""Names of things that are somebody else's or nobody's, and credentials that must not pass."""

from __future__ import annotations

import base64
import random

from hostile.target import Target
from hostile.wire import Attack, request

_NAMES = (
    b"..",
    b"../..",
    b"..%2f..%2fetc%2fpasswd",
    b"%2e%2e/%2e%2e/x",
    b"%252e%252e%252f",
    b"..\\..\\x",
    b"a/../b",
    b"a//b",
    b"/",
    b"%2F",
    b"%00",
    b"a%00b",
    b"%0d%0aEvil:%20x",
    b"%ff",
    b"%c0%ae%c0%ae/",
    b"%ed%a0%80",
    "ü".encode(),
    b"%F0%9F%98%80",
    b"%E2%80%AE",
    b"x" * 257,
    b"x" * 5_000,
    b"x" * 60_000,
    b"%41" * 256,
    b"%",
    b"%2",
    b"%zz",
    b"?",
    b"a?b=c",
    b"a%3Fb",
    b"#",
    b"~root",
    b".git/config",
    b"CON",
    b"*",
    b"$(id)",
    b"';--",
    b"{{7*7}}",
    b"<script>",
    b"a b",
    b"+",
    b"-rf",
    b"null",
    b"0",
    b"../messages",
    b"x/files/..%2f..%2fstate.json",
    b"x/files/%2e%2e/ledger",
    b"x/files//etc/passwd",
    b"x/fork",
    b"x/messages",
    b"x/files",
    b"x/files/",
    b"%5b",
    b"a;b",
    b"a,b",
    b"constructor",
    b"%C2%A0",
)


def name(target: Target, rng: random.Random) -> Attack:
    method, template = rng.choice(target.named)
    name = rng.choice([*_NAMES, *target.foreign, *target.foreign, *target.foreign])
    if rng.random() < 0.1:
        name = bytes(rng.choice(b"%2eE/.ab\\:;") for _ in range(rng.randint(1, 40)))
    query = rng.choice(
        (
            b"",
            b"",
            b"?limit=-1",
            b"?limit=" + b"9" * 5_000,
            b"?list=true&after=%00",
            b"?purge=\xff",
            b"?team=*",
            b"?team=blue",
            b"?under=../..&list=true",
            b"?after=" + b"x" * 5_000,
            b"?x" * 500,
            b"?grace_ms=\xb2",
            b"?grace_ms=soon",
            b"?at=x",
            b"?%00=%ff",
        )
    )
    body = (
        None
        if method in (b"GET", b"DELETE")
        else rng.choice((b"", b"{}", b'{"at": "' + name[:50] + b'"}', b"\xff", b"x" * 50))
    )
    path = template.replace(b"{}", name) + query
    return Attack(repr((method, path[:70])), (request(method, path, [target.auth], body),))


def named_in_header(target: Target, rng: random.Random) -> Attack:
    """The same names, where a turn names things."""
    name = rng.choice([*(n for n in _NAMES if len(n) < 10_000), *target.foreign])
    header = rng.choice([n for n, _ in target.more] or [b"X-Conversation-ID"])
    return Attack(repr((header, name[:50])), (target.turn(rng, (header, name)),))


def token(target: Target, rng: random.Random) -> Attack:
    garbage = bytes(rng.choice(b"abcXYZ019._-=+/") for _ in range(rng.choice((1, 40, 700, 15_000))))
    token = rng.choice(
        [
            *target.tokens,
            *target.tokens,
            garbage,
            garbage + b"." + garbage + b".",
            b"\xff" * 40,
            b"\xc3\xbc",
            b"a" * 10_000_000,
            b"." * 1000,
            base64.b64encode(b"[" * 5_000) + b".e30.x",
        ]
    )
    header = rng.choice(
        [
            [(b"Authorization", b"Bearer " + token)],
            [(b"x-api-key", token)],
            [(b"Authorization", b"bearer\t" + token)],
            [(b"Authorization", token)],
            [(b"Authorization", b"Basic " + token)],
            [(b"Authorization", b"Bearer  " + token)],
            [(b"Authorization", b"Bearer"), (b"x-api-key", token)],
            [(b"Authorization", b"Bearer x"), (b"x-api-key", token)],
        ]
    )
    good = rng.random() < 0.1
    data = (
        target.turn(rng, *header, auth=good)
        if rng.random() < 0.7
        else request(b"GET", rng.choice(target.reads), header)
    )
    return Attack(repr(header)[:80], (data,))
