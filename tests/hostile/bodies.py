"""Bodies that are wrong: how they are framed, what they hold."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Iterator
from typing import Any

from hostile.target import JSON, LONG, Target
from hostile.wire import Attack, request


def chunked(target: Target, rng: random.Random) -> Attack:
    path = rng.choice(list(target.turns))
    body = json.dumps(target.turns[path]).encode()
    size, n = b"%x" % len(body), len(body)
    framed = rng.choice(
        [
            b"-1\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
            b"7fffffffffffffff\r\n" + body,
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"\r\n",
            b"zz\r\n",
            size + b"\n" + body + b"\n0\n\n",
            size + b"\r\n" + body + b"0\r\n\r\n",
            size + b"\r\n" + body + b"\r\n0\r\n",
            size + b"\r\n" + body[: n // 2],
            b"%x\r\n" % (n + 1) + body + b"\r\n0\r\n\r\n",
            size + b";" + b"x=y;" * rng.choice((1, 50_000)) + b"\r\n" + body + b"\r\n0\r\n\r\n",
            size + b";\x00\xff\r\n" + body + b"\r\n0\r\n\r\n",
            b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
            b"".join(b"%s1\r\n%c\r\n" % (b"0" * 200, byte) for byte in body) + b"0\r\n\r\n",
            size + b"\r\n" + body + b"\r\n0\r\nAuthorization: Bearer trailer\r\nX-Claude-Team: blue\r\n\r\n",
            size + b"\r\n" + body + b"\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
            size + b"\r\n" + body + b"\r\n0\r\nX: " + b"y" * LONG + b"\r\n\r\n",
            size + b"\r\n" + body + b"\r\n0\r\n\r\n" + b"garbage after the end\r\n\r\n",
            b"0\r\n\r\n",
            (b"%x\r\n%b\r\n" % (65536, b" " * 65536)) * (target.largest_body // 65536 + 3),
        ]
    )
    head = request(b"POST", path, [target.auth, JSON, (b"Transfer-Encoding", b"chunked")])
    return Attack(repr(framed[:50]), (head + framed,))


_WEIRD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**63,
    10**30,
    1e308,
    "",
    "x",
    "\x00",
    "\ud800",
    "‮",
    "a" * 100_000,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"$ref": "#"},
    [{}],
    ["x"],
    {"type": "x"},
    {"type": None},
    [{"type": "text"}],
    "../../../etc/passwd",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
    "http://169.254.169.254/",
    "${jndi:ldap://x}",
    "'; DROP TABLE x; --",
)


def typed(target: Target, rng: random.Random) -> Attack:
    """A good body with one to three values of the wrong kind, wherever there is a value; or a field nobody knows."""
    path = rng.choice(list(target.turns))
    body = json.loads(json.dumps(target.turns[path]))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(body))
        holder, key = rng.choice(places) if places else (body, "x")
        if isinstance(holder, dict) and rng.random() < 0.15:
            key = rng.choice(("extra", "\x00", "__proto__", "x" * 10_000, "\ud800", ""))
        holder[key] = copy.deepcopy(rng.choice(_WEIRD))
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    return Attack(repr(data[:90]), (request(b"POST", path, [target.auth, JSON], data),))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in list(pairs):
        yield value, key
        yield from _places(found)


def text(target: Target, rng: random.Random) -> Attack:
    """A body that is no good JSON."""
    path = rng.choice(list(target.turns))
    good = json.dumps(target.turns[path]).encode()
    deep = rng.choice((2_000, 100_000))
    cut = rng.randrange(len(good))
    spoiled = bytearray(good)
    for _ in range(rng.randint(1, 8)):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    name, body = rng.choice(
        [
            ("empty", b""),
            ("cut", good[:cut]),
            ("spoiled", bytes(spoiled)),
            ("deep lists", b"[" * deep + b"]" * deep),
            ("deep, unclosed", b'{"a":' * deep),
            ("deep in an unknown field", _with(good, b'"z":' + b"[" * deep + b"]" * deep)),
            ("deep metadata", _with(good, b'"metadata":' + b'{"a":' * deep + b"1" + b"}" * deep)),
            ("NaN", _with(good, b'"max_tokens":NaN')),
            ("Infinity", _with(good, b'"temperature":-Infinity')),
            ("a number", _with(good, b'"max_tokens":' + b"9" * rng.choice((20, 5_000, 500_000)))),
            ("an exponent", _with(good, b'"temperature":1e' + b"9" * 400)),
            ("invalid UTF-8", _with(good, b'"user":"\xff\xfe"')),
            ("overlong UTF-8", _with(good, b'"user":"\xc0\x80"')),
            ("a surrogate", _with(good, b'"user":"\\ud800"')),
            ("a surrogate in a name", _with(good, b'"\\udfff":1')),
            ("raw surrogate", _with(good, b'"user":"\xed\xa0\x80"')),
            ("twice the model", _with(good, b'"model":"other"')),
            ("twice, escaped", _with(good, b'"mod\\u0065l":"other"')),
            ("twice the messages", _with(good, b'"messages":[]')),
            ("a comment", b"/* */" + good),
            ("two", good + good),
            ("BOM", b"\xef\xbb\xbf" + good),
            ("UTF-16", good.decode().encode("utf-16")),
            ("NUL", good + b"\0"),
            ("a list", b"[]"),
            ("null", b"null"),
            ("a string", b'"' + b"a" * 1000 + b'"'),
            ("spaces", b" " * 100_000 + good),
            ("many fields", b"{" + b",".join(b'"f%d":1' % n for n in range(50_000)) + b"}"),
            ("large", good[:-1] + b" " * (target.largest_body + 1) + b"}"),
            ("random", rng.randbytes(rng.randint(1, 5_000))),
            (
                "many messages",
                json.dumps({**target.turns[path], "messages": [{"role": "user", "content": "x"}] * 20_000}).encode(),
            ),
        ]
    )
    headers = [target.auth, JSON]
    if rng.random() < 0.15:
        body = gzip.compress(body)
        headers.append((b"Content-Encoding", rng.choice((b"gzip", b"br", b"gzip, gzip", b"\xff"))))
        name += ", compressed"
    return Attack(name, (request(b"POST", path, headers, body),))


def _with(good: bytes, field_text: bytes) -> bytes:
    return good[:-1] + b"," + field_text + b"}"
