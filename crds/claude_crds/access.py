"""How to reach the API server, and as whom: inside a pod, or by a kubeconfig.

Inside a pod it is two environment variables and a few files, read here: importing the official client for that would
cost each router 0.5 s and 20 MB. A kubeconfig can name anything (merged files, exec plugins, refreshed tokens), so the
official client's `kubernetes.config` reads it, imported then and only then. All of this blocks: call it in a thread.
"""

from __future__ import annotations

import importlib
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class AccessError(Exception):
    """There is no usable way to an API server. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and credentials for it."""

    server: str
    """Such as https://10.96.0.1:443, without a final slash."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """None for plain HTTP only. Client certificates are in it."""
    authorization: str = field(default="", repr=False)
    """Value of the header; empty when a client certificate says it all."""
    tls_name: str | None = None
    """The name that the server's certificate must have, if it is not the one in `server`."""
    token_file: Path | None = None
    """Where the token came from. The kubelet replaces it long before it expires, so read it again now and then."""
    namespace: str = ""
    """The pod's own, or the kubeconfig context's."""


Loader = Callable[[], Access]
"""Reads it all anew; blocks."""


def loader(environ: Mapping[str, str] = os.environ) -> Loader:
    """The way that fits this process: the kubeconfig that KUBECONFIG names, else the pod's own, else ~/.kube/config."""
    if environ.get("KUBECONFIG") or not environ.get("KUBERNETES_SERVICE_HOST"):
        path = environ.get("KUBECONFIG") or None
        return lambda: from_kubeconfig(path)
    return lambda: in_pod(environ)


def in_pod(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """By the pod's service account."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        return Access(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            tls=_tls(folder / "ca.crt"),
            authorization=read_token(folder / "token"),
            token_file=folder / "token",
            namespace=(folder / "namespace").read_text().strip(),
        )
    except OSError as error:
        raise AccessError(f"the pod's service account cannot be used ({error}); is its token mounted?") from error


def read_token(file: Path) -> str:
    """The header's value. Raises OSError."""
    return f"Bearer {file.read_text().strip()}"


def from_kubeconfig(files: str | None = None) -> Access:
    """By the files that `files` names (`:` between them; None: the default one), in the current context."""
    try:
        config: Any = importlib.import_module("kubernetes.config")
        client: Any = importlib.import_module("kubernetes.client")
    except ImportError as error:
        raise AccessError("to use a kubeconfig, install claude-code-api[operator]") from error
    made = client.Configuration()
    # It writes keys that stand in the kubeconfig to files, which OpenSSL needs: ours to remove when they are read.
    with tempfile.TemporaryDirectory() as folder:
        try:
            config.load_kube_config(files, client_configuration=made, persist_config=False, temp_file_path=folder)
            _, current = config.list_kube_config_contexts(files)
            tls = _tls(made.ssl_ca_cert) if made.host.startswith("https:") else None
            if tls and not made.verify_ssl:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            if tls and made.cert_file:
                tls.load_cert_chain(made.cert_file, made.key_file)
        except (config.ConfigException, OSError) as error:
            raise AccessError(f"the kubeconfig {files or ''} cannot be used: {error}") from error
    return Access(
        server=made.host,
        tls=tls,
        authorization=made.api_key.get("BearerToken", ""),
        tls_name=made.tls_server_name,
        namespace=current["context"].get("namespace") or "default",
    )


def _tls(authority: str | Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    # Set by default from Python 3.13 on; many clusters' own authorities do not have all that it asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
