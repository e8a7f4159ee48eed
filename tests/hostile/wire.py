"""A raw connection to a server: what is sent is sent as it is, and what comes back is read without trust."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Literal

import httptools

Close = Literal["wait", "half", "reset"]


@dataclass(frozen=True)
class Attack:
    """What to send: pieces, with so many seconds after each but the last. `close`: how the sender ends.

    `wait`: by waiting for the server; `half`: with a FIN; `reset`: with a RST at once.
    `slow`: whether the server has to end it by a clock of its own.
    """

    name: str
    pieces: tuple[bytes, ...]
    pause: float = 0.0
    close: Close = "wait"
    slow: bool = False


@dataclass
class Answer:
    """One response."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False


@dataclass
class Outcome:
    """What came back: answers in order, what was no HTTP, how long it took, whether the server closed."""

    answers: list[Answer]
    strange: bytes
    seconds: float
    closed: bool
    hung: bool = False
    raw: bytes = b""


class _Reader:
    """Collects the responses of a connection."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.strange = b""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.strange += b"%b: %b" % (str(error).encode(), data[:200])

    @property
    def done(self) -> bool:
        return bool(self.answers) and self.answers[-1].whole and self.answers[-1].status >= 200

    def on_message_begin(self) -> None:
        self.answers.append(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answers[-1].headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answers[-1].status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.answers[-1].body += data

    def on_message_complete(self) -> None:
        self.answers[-1].whole = True


async def send(port: int, attack: Attack, patience: float, *, quiet: float = 0.05) -> Outcome:
    """Carry the attack out. It is over when the server has closed the connection, or when it has answered, has said
    nothing more for `quiet` seconds and waits for another request; `hung` after `patience` seconds."""
    began = time.monotonic()
    parsed, raw, closed, hung = _Reader(), bytearray(), False, False
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.create_task(_send(writer, attack))
    try:
        async with asyncio.timeout(patience):
            while not closed:
                try:
                    async with asyncio.timeout(quiet):
                        data = await reader.read(65536)
                except TimeoutError:
                    if not attack.slow and sending.done() and (parsed.done or attack.close == "reset"):
                        break
                    continue
                except OSError:
                    data = b""
                closed = not data
                raw += data
                if data:
                    parsed.feed(data)
    except TimeoutError:
        hung = True
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        if attack.close == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return Outcome(parsed.answers, parsed.strange, time.monotonic() - began, closed, hung, bytes(raw))


async def _send(writer: asyncio.StreamWriter, attack: Attack) -> None:
    with contextlib.suppress(OSError):
        for number, piece in enumerate(attack.pieces):
            if number and attack.pause:
                await asyncio.sleep(attack.pause)
            writer.write(piece)
            await writer.drain()
        if attack.close == "half":
            writer.write_eof()


async def deaf(port: int, attack: Attack, patience: float) -> bool:
    """Send it and read nothing; whether the server gives the connection up in time."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    try:
        async with asyncio.timeout(patience):
            await loop.sock_connect(sock, ("127.0.0.1", port))
            for piece in attack.pieces:
                await loop.sock_sendall(sock, piece)
            while not _reset(sock):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
            return True
    except TimeoutError:
        return False
    finally:
        sock.close()


def _reset(sock: socket.socket) -> bool:
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != 1  # TCP_ESTABLISHED


def request(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]] | None = None, body: bytes | None = None
) -> bytes:
    """A request as it should be, as far as its parts are."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: server"]
    lines += [name + b": " + value for name, value in headers or []]
    if body is not None and not any(re.match(rb"(?i)content-length|transfer-enc", n) for n, _ in headers or []):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")
