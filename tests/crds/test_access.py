"""Ways to an API server: a pod's service account, a kubeconfig; over real TLS, with certificates made on the spot."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from claude_crds.access import Access, AccessError, from_kubeconfig, in_pod, loader
from claude_crds.api import Api
from claude_crds.errors import Unavailable
from claude_crds.resources import SESSIONS
from crds.fake_api import FakeApi

NAMES = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("kubernetes")]


@dataclass(frozen=True)
class Keys:
    """An authority, and what it has signed: the server's and a client's certificate. Files in `folder`."""

    folder: Path

    def server(self, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.crt")
        return context

    def data(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()


def make_keys(folder: Path) -> Keys:
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    for name in ("ca", "server", "client"):
        key = authority if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(issuer if name == "ca" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        )
        if name == "server":
            built = built.add_extension(x509.SubjectAlternativeName(NAMES), critical=False)
        certificate = built.sign(authority, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return Keys(folder)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def service_account(keys: Keys, folder: Path) -> Path:
    (folder / "token").write_text("pod-token\n")
    (folder / "namespace").write_text("pod-namespace")
    (folder / "ca.crt").write_bytes((keys.folder / "ca.crt").read_bytes())
    return folder


def kubeconfig(folder: Path, server: str, cluster: dict[str, Any], user: dict[str, Any], **context: Any) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **context}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    file = folder / "config"
    file.write_text(yaml.safe_dump(config))
    return str(file)


async def reached(load: Any, fake: FakeApi) -> str:
    """The Authorization that the server saw."""
    async with Api(load) as api:
        await api.list(SESSIONS, "ns")
    return fake.requests[-1].headers.get("Authorization", "")


async def test_in_a_pod(keys: Keys, tmp_path: Path) -> None:
    folder = service_account(keys, tmp_path)
    async with FakeApi(keys.server()) as fake:
        host, _, port = fake.server.removeprefix("https://").partition(":")
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        access = in_pod(environ, folder)
        assert (access.namespace, access.token_file) == ("pod-namespace", folder / "token")
        assert await reached(lambda: access, fake) == "Bearer pod-token"
        assert "pod-token" not in repr(access)
    assert in_pod({"KUBERNETES_SERVICE_HOST": "fd00::1"}, folder).server == "https://[fd00::1]:443"


async def test_a_server_that_somebody_else_vouches_for_is_not_trusted(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    folder = service_account(make_keys(tmp_path / "other"), tmp_path)
    async with FakeApi(keys.server()) as fake:
        host, _, port = fake.server.removeprefix("https://").partition(":")
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        async with Api(lambda: in_pod(environ, folder)) as api:
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await api.list(SESSIONS, "ns")
        assert fake.requests == []


@pytest.mark.parametrize("missing", ["token", "ca.crt", "namespace"])
def test_a_pod_without_its_token_is_told_so(keys: Keys, tmp_path: Path, missing: str) -> None:
    folder = service_account(keys, tmp_path)
    (folder / missing).unlink()
    with pytest.raises(AccessError, match=r"service account cannot be used .*; is its token mounted\?"):
        in_pod({"KUBERNETES_SERVICE_HOST": "h"}, folder)


async def test_a_kubeconfig_with_certificates_in_it(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "tmp"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    async with FakeApi(keys.server(ask_client=True)) as fake:
        user = {"client-certificate-data": keys.data("client.crt"), "client-key-data": keys.data("client.key")}
        file = kubeconfig(tmp_path, fake.server, {"certificate-authority-data": keys.data("ca.crt")}, user)
        for _ in range(2):
            assert await reached(lambda: from_kubeconfig(file), fake) == ""
        assert list(private.iterdir()) == [], "no key is left in a file"
        assert from_kubeconfig(file).namespace == "default"
        plain = kubeconfig(tmp_path, fake.server, {"certificate-authority-data": keys.data("ca.crt")}, {})
        with pytest.raises(Unavailable):
            await reached(lambda: from_kubeconfig(plain), fake)


async def test_a_kubeconfig_with_a_token_a_namespace_and_files(keys: Keys, tmp_path: Path) -> None:
    async with FakeApi(keys.server()) as fake:
        cluster = {"certificate-authority": str(keys.folder / "ca.crt")}
        file = kubeconfig(tmp_path, fake.server, cluster, {"token": "mine"}, namespace="team")
        assert await reached(lambda: from_kubeconfig(file), fake) == "Bearer mine"
        assert from_kubeconfig(file).namespace == "team"
        skipping = kubeconfig(tmp_path, fake.server, {"insecure-skip-tls-verify": True}, {"token": "mine"})
        assert await reached(lambda: from_kubeconfig(skipping), fake) == "Bearer mine"


async def test_a_kubeconfig_may_say_which_name_the_certificate_has(keys: Keys, tmp_path: Path) -> None:
    async with FakeApi(keys.server()) as fake:
        authority = {"certificate-authority": str(keys.folder / "ca.crt")}
        right = kubeconfig(tmp_path, fake.server, {**authority, "tls-server-name": "kubernetes"}, {})
        assert await reached(lambda: from_kubeconfig(right), fake) == ""
        wrong = kubeconfig(tmp_path, fake.server, {**authority, "tls-server-name": "other"}, {})
        with pytest.raises(Unavailable, match=r"[Hh]ostname mismatch"):
            await reached(lambda: from_kubeconfig(wrong), fake)


def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="nowhere cannot be used"):
        from_kubeconfig(str(tmp_path / "nowhere"))
    cluster = {"certificate-authority": "missing.crt"}
    with pytest.raises(AccessError, match=r"missing\.crt"):
        from_kubeconfig(kubeconfig(tmp_path, "https://127.0.0.1:1", cluster, {}))


def test_the_way_that_fits_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []

    def take(argument: object) -> Access:
        taken.append("pod" if isinstance(argument, dict) else argument)
        return Access("http://there")

    monkeypatch.setattr("claude_crds.access.in_pod", take)
    monkeypatch.setattr("claude_crds.access.from_kubeconfig", take)
    loader({"KUBERNETES_SERVICE_HOST": "h"})()
    loader({"KUBERNETES_SERVICE_HOST": "h", "KUBECONFIG": "a:b"})()
    loader({"KUBECONFIG": ""})()
    assert taken == ["pod", "a:b", None]


def test_a_router_in_a_pod_does_not_pay_for_the_official_client() -> None:
    code = "import sys, claude_crds.api, claude_crds.reflector; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
