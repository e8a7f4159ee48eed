"""The cluster's keys, made anew for every node, since nothing outlives one.

One authority, one certificate (the API server's, which is also what it shows the kubelet), a token for everyone else.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from pathlib import Path

from cluster.node.network import API_SERVICE, NODE_ADDRESS

SERVER = f"https://{NODE_ADDRESS}:6443"
_USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": ("system:node:node1", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", "system:node-proxier"),
}
_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
_DAYS = "365"


def make(run: Path) -> None:
    """Write `keys/`, `tokens.csv`, `kubeconfigs/<user>` for the node's parts and `kubeconfig` for people."""
    keys = run / "keys"
    keys.mkdir()
    _certificates(keys)
    tokens = {user: secrets.token_hex(32) for user in _USERS}
    lines = [f'{tokens[user]},{name},{name},"{group}"' for user, (name, group) in _USERS.items()]
    (run / "tokens.csv").write_text("\n".join(lines) + "\n")
    authority = (keys / "ca.crt").read_text()
    (run / "kubeconfigs").mkdir()
    for user, token in tokens.items():
        (run / "kubeconfigs" / user).write_text(_kubeconfig(authority, token))
    (run / "kubeconfigs" / "admin").rename(run / "kubeconfig")


def _certificates(keys: Path) -> None:
    names = ",".join([*(f"DNS:{n}" for n in _NAMES), f"IP:{API_SERVICE}", f"IP:{NODE_ADDRESS}"])
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", _DAYS)
    authority = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    leaf = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={names}")
    use = ("-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=serverAuth,clientAuth")
    ca = ("-CA", "ca.crt", "-CAkey", "ca.key")
    _openssl(keys, "req", "-x509", *curve, "-subj", "/CN=cluster", *authority, "-keyout", "ca.key", "-out", "ca.crt")
    subject = ("-subj", "/O=system:masters/CN=kube-apiserver")
    _openssl(keys, "req", "-x509", *curve, *ca, *subject, *leaf, *use, "-keyout", "server.key", "-out", "server.crt")
    _openssl(keys, "genrsa", "-out", "accounts.key", "2048")
    _openssl(keys, "rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _kubeconfig(authority: str, token: str) -> str:
    """As JSON, which is YAML too."""
    encoded = base64.b64encode(authority.encode()).decode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "node", "cluster": {"server": SERVER, "certificate-authority-data": encoded}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": "user"}}],
            "current-context": "node",
        }
    )
