"""Remote images: which addresses are refused, and what a server may answer."""

from __future__ import annotations

import asyncio
import base64
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from claude_worker import remote
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ImageUrl, Message, Part

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def response(body: bytes = PNG, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Server:
    """Answers each path with fixed bytes, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str, host: str = "images.test") -> str:
        return f"http://{host}:{self.port}{path}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(request)
        answer = self.answers.get(request.split(" ")[1])
        if answer is None:
            await reader.read()  # never answers; until the client leaves
        else:
            writer.write(answer)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    listening = await asyncio.start_server(found.handle, "127.0.0.1", 0)
    found.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield found


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as public, and `images.test` is there; `inside.test` is at a private address."""
    public = remote.is_public
    monkeypatch.setattr(remote, "is_public", lambda address: address == "127.0.0.1" or public(address))
    known = {"images.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"], "both.test": ["127.0.0.1", "10.0.0.1"]}
    resolve = remote.resolve

    async def resolved(host: str, port: int) -> list[str]:
        return known.get(host) or await resolve(host, port)

    monkeypatch.setattr(remote, "resolve", resolved)


async def failure(fetching: Awaitable[Any]) -> tuple[str | None, str]:
    with pytest.raises(ApiError) as caught:
        await fetching
    assert (caught.value.status, caught.value.param) == (400, "messages")
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "198.18.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::",
        "64:ff9b::10.0.0.1", "2001:db8::1", "not an address", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_open_internet(address: str) -> None:
    assert not remote.is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
def test_addresses_of_the_open_internet(address: str) -> None:
    assert remote.is_public(address)


@pytest.mark.usefixtures("nearby")
async def test_an_image_is_fetched_from_the_address_that_was_checked(server: Server) -> None:
    server.answers["/a.png?x=1"] = response()
    assert await remote.fetch(server.url("/a.png?x=1")) == ("image/png", PNG)
    asked = server.asked[0].lower()
    assert f"host: images.test:{server.port}\r\n" in asked
    assert "accept-encoding: identity\r\n" in asked
    assert "cookie" not in asked


async def test_a_local_server_is_never_asked(server: Server) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        code, _ = await failure(remote.fetch(server.url("/a.png", host)))
        assert code in ("remote_image_not_allowed", "remote_image_failed"), host
    assert server.asked == []


@pytest.mark.usefixtures("nearby")
@pytest.mark.parametrize("host", ["inside.test", "both.test"])
async def test_one_private_address_is_enough_to_refuse_a_host(server: Server, host: str) -> None:
    code, message = await failure(remote.fetch(server.url("/a.png", host)))
    assert (code, server.asked) == ("remote_image_not_allowed", [])
    assert "10.0.0.1" not in message


@pytest.mark.usefixtures("nearby")
async def test_redirects_are_followed_and_checked(server: Server) -> None:
    server.answers |= {
        "/a": response(b"", "302 Found", "Location: /b"),
        "/b": response(b"", "307 Temporary Redirect", f"Location: {server.url('/c')}"),
        "/c": response(),
        "/inside": response(b"", "301 Moved Permanently", f"Location: {server.url('/c', 'inside.test')}"),
        "/file": response(b"", "302 Found", "Location: file:///etc/passwd"),
        "/loop": response(b"", "302 Found", "Location: /loop"),
    }
    assert await remote.fetch(server.url("/a")) == ("image/png", PNG)
    assert (await failure(remote.fetch(server.url("/inside"))))[0] == "remote_image_not_allowed"
    assert (await failure(remote.fetch(server.url("/file"))))[0] == "remote_image_failed"
    assert "redirects too often" in (await failure(remote.fetch(server.url("/loop"))))[1]
    assert len(server.asked) == 3 + 1 + 1 + 4


@pytest.mark.usefixtures("nearby")
@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (response(b"<html>"), "invalid_image", "not a png"),
        (response(b""), "invalid_image", "not a png"),
        (response(status="404 Not Found"), "remote_image_failed", "status 404"),
        (response(status="302 Found"), "remote_image_failed", "status 302"),
        (response(PNG + bytes(1000)), "remote_image_too_large", "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PNG + bytes(1000), "remote_image_too_large", "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + PNG, "remote_image_failed", "could not be fetched"),
        (b"nonsense\r\n\r\n", "remote_image_failed", "could not be fetched"),
        (b"", "remote_image_failed", "could not be fetched"),
    ],
)
async def test_bad_answers(server: Server, answer: bytes, code: str, says: str) -> None:
    server.answers["/a"] = answer
    found, message = await failure(remote.fetch(server.url("/a"), limit_bytes=1000))
    assert found == code
    assert says in message


@pytest.mark.usefixtures("nearby")
async def test_a_server_that_does_not_answer(server: Server) -> None:
    assert "within 0.2 s" in (await failure(remote.fetch(server.url("/never"), timeout=0.2)))[1]


def certificate(path: Path, host: str) -> Path:
    """A file with a key and a certificate for `host`, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    made = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False).sign(
        key, hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(pem))
    return path


@pytest.mark.usefixtures("nearby")
async def test_the_certificate_is_checked_against_the_hosts_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path / "server.pem", "images.test")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    trusting = ssl.create_default_context(cafile=str(pem))
    server.answers["/a"] = response()
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=serving) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert (await failure(remote.fetch(f"https://images.test:{port}/a")))[0] == "remote_image_failed"
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        assert await remote.fetch(f"https://images.test:{port}/a") == ("image/png", PNG)
        assert (await failure(remote.fetch(f"https://127.0.0.1:{port}/a")))[0] == "remote_image_failed"
    assert len(server.asked) == 1


@pytest.mark.usefixtures("nearby")
async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://images.test:{taken.getsockname()[1]}/"
        assert (await failure(remote.fetch(url)))[0] == "remote_image_failed"


@pytest.mark.parametrize(
    "url",
    ["ftp://a.test/", "http://", "http://u:p@a.test/", "http://a.test:99999/", "http://[::1", "http://a..b/", "x"],
)
async def test_addresses_that_are_none(url: str) -> None:
    assert (await failure(remote.fetch(url)))[0] == "remote_image_failed"


# -- into messages -----------------------------------------------------------------------------------------------------


def images(*urls: str) -> Message:
    return Message("user", [Part("text", "look"), *(Part("image_url", image_url=ImageUrl(url)) for url in urls)])


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fetch succeeds, except of addresses with `bad` in them; the addresses that were fetched."""
    asked: list[str] = []

    async def fetch(url: str) -> tuple[str, bytes]:
        asked.append(url)
        if "bad" in url:
            raise ApiError(400, "bad", code="remote_image_failed", param="messages")
        return "image/png", PNG

    monkeypatch.setattr(remote, "fetch", fetch)
    return asked


async def test_remote_images_become_data_uris(fetched: list[str]) -> None:
    plain = Message("user", "x")
    given = [plain, images("http://a/1", "data:image/png;base64,aGk=", "http://a/1", "HTTPS://a/2")]
    found = await remote.inline_messages(given, True)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    parts = found[1].parts
    assert [p.image_url.url for p in parts if p.image_url] == [uri, "data:image/png;base64,aGk=", uri, uri]
    assert (parts[0].text, found[0]) == ("look", plain)
    assert sorted(fetched) == ["HTTPS://a/2", "http://a/1"]


async def test_nothing_remote_changes_nothing(fetched: list[str]) -> None:
    given = images("data:image/png;base64,aGk=")
    (same,) = await remote.inline_messages([given], False)
    assert same is given
    assert fetched == []


async def test_remote_images_that_are_not_allowed(fetched: list[str]) -> None:
    code, _ = await failure(remote.inline_messages([images("http://a/1")], False))
    assert (code, fetched) == ("remote_image_not_allowed", [])


async def test_one_image_that_cannot_be_had_fails_the_request(fetched: list[str]) -> None:
    assert (await failure(remote.inline_messages([images("http://a/1", "http://bad/1", "http://bad/2")], True)))[
        1
    ] == "bad"


async def test_too_many_images(fetched: list[str]) -> None:
    urls = [f"http://a/{i}" for i in range(remote.MOST_IMAGES + 1)]
    assert "at most 20" in (await failure(remote.inline_messages([images(*urls)], True)))[1]
    assert fetched == []
