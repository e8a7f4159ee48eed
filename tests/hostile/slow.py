"""Senders that are slow, send too much at once, or leave."""

from __future__ import annotations

import random

from hostile.target import JSON, Target
from hostile.wire import Attack, Close, request


def slow(target: Target, rng: random.Random) -> Attack:
    """Half of something, or one byte at a time; the sender waits for the server to give it up."""
    whole = target.turn(rng)
    head = whole.index(b"\r\n\r\n") + 4
    body = len(whole) - head
    refused = target.turn(rng, (b"Expect", b"x"), auth=False)
    name, pieces, pause = rng.choice(
        [
            ("nothing", (), 0.0),
            ("half a head", (whole[: rng.randrange(1, head - 4)],), 0.0),
            ("half a body", (whole[: head + rng.randrange(body)],), 0.0),
            ("a head without its body", (whole[:head],), 0.0),
            ("a head byte by byte", tuple(whole[n : n + 1] for n in range(len(whole))), 0.05),
            ("a head, header by header, without end", (whole[: head - 2], *(b"X: y\r\n" for _ in range(1_000))), 0.05),
            ("a body byte by byte", (whole[:head], *(b" " for _ in range(1_000))), 0.05),
            ("chunks byte by byte", (_chunk_head(target, rng), *(b"1\r\n \r\n" for _ in range(1_000))), 0.05),
            ("an extension without end", (_chunk_head(target, rng) + b"5;", *(b"x" for _ in range(1_000))), 0.05),
            ("line breaks", tuple(b"\r\n" for _ in range(1_000)), 0.05),
            ("a request, then line breaks", (whole, *(b"\r\n" for _ in range(1_000))), 0.05),
            ("a request, then half of one", (whole, whole[:30]), 0.1),
            (
                "a refused body that goes on",
                (refused[: refused.index(b"\r\n\r\n") + 4], *(b" " for _ in range(1_000))),
                0.05,
            ),
        ]
    )
    return Attack(name, pieces, pause, slow=True)


def _chunk_head(target: Target, rng: random.Random) -> bytes:
    return request(b"POST", rng.choice(list(target.turns)), [target.auth, JSON, (b"Transfer-Encoding", b"chunked")])


def pipelined(target: Target, rng: random.Random) -> Attack:
    read = request(b"GET", rng.choice(target.reads), [target.auth])
    turn = target.turn(rng)
    pieces = rng.choice(
        [
            (read * 3,),
            (turn + read,),
            (turn + turn,),
            (turn + b"garbage\r\n\r\n",),
            (turn + turn[: len(turn) // 2],),
            (read * 500,),
            (turn + read * 200,),
            (read + b"\r\n\r\n" + read,),
            (read, turn + b"\0" * 100),
            (read[:-2], b"\r\n" + turn, read),
            (target.turn(rng, auth=False) + read,),
            (target.turn(rng, (b"Connection", b"close")) + read,),
        ]
    )
    return Attack(f"{len(b''.join(pieces))} bytes", pieces, 0.02, close=rng.choice(("wait", "half", "reset")))


def early_close(target: Target, rng: random.Random) -> Attack:
    whole = target.turn(rng) if rng.random() < 0.7 else request(b"GET", rng.choice(target.reads), [target.auth])
    cut = rng.choice((len(whole), rng.randrange(1, len(whole))))
    close: Close = rng.choice(("half", "reset"))
    return Attack(f"{cut} of {len(whole)} bytes, {close}", (whole[:cut],), close=close)
