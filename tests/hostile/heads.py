"""Request lines, headers and lengths that are wrong."""

from __future__ import annotations

import base64
import json
import random

from hostile.target import JSON, LONG, Header, Target
from hostile.wire import Attack, request


def request_line(target: Target, rng: random.Random) -> Attack:
    path = rng.choice([*target.turns, *target.reads])
    line = rng.choice(
        [
            b"GET " + path,
            b"GET " + path + b" HTTP/0.9",
            b"GET " + path + b" HTTP/2.0",
            b"GET " + path + b" HTTP/9.9",
            b"get " + path + b" HTTP/1.1",
            b"G" * 5000 + b" / HTTP/1.1",
            b"BREW " + path + b" HTTP/1.1",
            b"TRACE " + path + b" HTTP/1.1",
            b"CONNECT internal:443 HTTP/1.1",
            b"CONNECT " + path + b" HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET  HTTP/1.1",
            b"GET http://169.254.169.254/latest HTTP/1.1",
            b"GET http:// HTTP/1.1",
            b"GET //evil/" + path + b" HTTP/1.1",
            b"GET ?x HTTP/1.1",
            b"GET #x HTTP/1.1",
            b"GET /" + b"a" * LONG + b" HTTP/1.1",
            b"GET /?" + b"a=b&" * 10_000 + b" HTTP/1.1",
            b"GET /%" + b" HTTP/1.1",
            b"GET /%zz%00%0d%0a HTTP/1.1",
            "GET /ü😀 HTTP/1.1".encode(),
            b"GET /\xff\xfe HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET\t" + path + b"\tHTTP/1.1",
            b"GET " + path + b" HTTP/1.1 x",
            b"PRI * HTTP/2.0\r\n\r\nSM",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"SSH-2.0-OpenSSH_9.9",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2",
            b"HEAD " + path + b" HTTP/1.1\r\nConnection: close",
            b"POST " + path + b" HTTP/1.0",
            b"HTTP/1.1 200 OK",
            b"\r\n" * 50 + b"GET " + path + b" HTTP/1.1",
            rng.randbytes(rng.randint(1, 2000)),
        ]
    )
    return Attack(repr(line[:60]), (line + b"\r\nHost: x\r\n\r\n",))


def header(target: Target, rng: random.Random) -> Attack:
    name, value = target.auth
    known = [n for n, _ in target.more] or [b"X-Anything"]
    headers: list[Header] = rng.choice(
        [
            [(b"X-Long", b"a" * rng.choice((8_000, 60_000, 70_000, 1_000_000)))],
            [(b"N" * 70_000, b"v")],
            [(b"X-%d" % n, b"v") for n in range(rng.choice((150, 300, 5_000)))],
            [(b"Host", b"again")] * 3,
            [(name, value), (name, b"Bearer other")],
            [(name, b"")],
            [(rng.choice(known), bytes([rng.choice((0, 1, 8, 11, 12, 27, 127, 128, 255))]) + b"x")],
            [
                (
                    rng.choice(known),
                    rng.choice((b"", b" ", b"\xc3\x28", "😀".encode(), b"\xed\xa0\x80", b"%", b"%ff", b"%00")),
                )
            ],
            [(rng.choice(known), b"v" * 5_000)],
            [(rng.choice(known), rng.choice((b"\xb2", b"9" * 5_000, b"-1", b"1e9", b"NaN", b"0x10", "١".encode())))],
            [(b"X-Folded", b"one\r\n two\r\n\tthree")],
            [(b"X Space", b"v")],
            [(b"", b"no name")],
            [(b"X-Lf", b"a\nEvil: b")],
            [(b"X-Cr", b"a\rEvil: b")],
            [(b"Evil ", b"v")],
            [(b"\xffname", b"v")],
            [(b"X-Nul\x00", b"v")],
            [(b"Expect", b"200-maybe")],
            [(b"Expect", b"100-continue")],
            [(b"Range", b"bytes=0-" + b"9" * 400)],
            [(b"Connection", b"Upgrade"), (b"Upgrade", rng.choice((b"websocket", b"h2c", b"TLS/1.0")))],
            [(b"Connection", b"close, authorization, host, content-length")],
            [(b"Connection", b"\xff")],
            [(b"Content-Type", b"text/plain")],
            [(b"Accept-Encoding", b"gzip;q=\xff")],
            [(b"Cookie", b"a=b;" * 1_000)],
            [(b"Origin", b"https://evil.example")],
            [(b"X-Forwarded-For", b"127.0.0.1")],
            [(b"Forwarded", b'for="_x"')],
            [(b"Proxy", b"http://evil")],
            [(b"X-HTTP-Method-Override", b"DELETE")],
            [(b"Transfer-Encoding ", b"chunked")],
            [(b"Proxy-Authorization", b"Basic eDp5")],
            [(b"Authorization", b"Basic " + base64.b64encode(b"\xff:\x00"))],
        ]
    )
    shown = repr(headers[0])[:60] + f" ×{len(headers)}"
    return Attack(shown, (target.turn(rng, *headers),))


def length(target: Target, rng: random.Random) -> Attack:
    path = rng.choice(list(target.turns))
    body = json.dumps(target.turns[path]).encode()
    right = b"%d" % len(body)
    headers: list[Header] = rng.choice(
        [
            [(b"Content-Length", value)]
            for value in (
                b"",
                b"-1",
                b"+5",
                b"0x10",
                b"1e3",
                b"5, 5",
                b"5,6",
                b"\xb2",
                b"9" * 30,
                b"9" * 5_000,
                b"18446744073709551616",
                b"1_0",
                right + b" x",
                b"99999999999999",
                b"0",
                b"1",
            )
        ]
        + [
            [(b"Content-Length", right), (b"Content-Length", b"3")],
            [(b"Content-Length", right)] * 2,
            [(b"Content-Length", right), (b"Transfer-Encoding", b"chunked")],
            [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", right)],
            [(b"Transfer-Encoding", b"identity"), (b"Content-Length", right)],
            *(
                [(b"Transfer-Encoding", value)]
                for value in (
                    b"gzip",
                    b"gzip, chunked",
                    b"chunked, gzip",
                    b"chunked, chunked",
                    b"x-chunked",
                    b"\x0bchunked",
                    b"chunKed",
                    b"",
                    b"chunked;q=1",
                    b"identity",
                    b"chunked\x00",
                )
            ),
        ]
    )
    data = request(b"POST", path, [target.auth, JSON, *headers], body)
    return Attack(repr(headers)[:70], (data,))
