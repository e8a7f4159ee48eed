"""The allow-list of what workers reach, tried in a worker's shell through prompts, on a real cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from cluster.node import tools
from cluster.node.__main__ import image_name
from cluster.stack import RELEASE, Cluster, Stack, install, model_manifest, namespace
from cluster.watching import PATIENCE, watching
from local.harness import chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LIST_SECONDS = 150
"""The kubelet brings a changed ConfigMap to its pods within its sync period, of a minute, and a jitter."""

_SITE = """
set -e
mkdir -p /tmp/www && cd /tmp/www
echo hello from the site > hello.txt
git init --quiet --initial-branch=main /tmp/work
git -C /tmp/work -c user.name=a -c user.email=a@b commit --quiet --allow-empty --message=first
git clone --quiet --bare /tmp/work repo.git
git -C repo.git update-server-info
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=site -days 2 -keyout /tmp/key.pem -out /tmp/cert.pem 2>/dev/null
exec python3 -c '
import functools, http.server, ssl, threading
serve = functools.partial(http.server.ThreadingHTTPServer, RequestHandlerClass=http.server.SimpleHTTPRequestHandler)
plain, secure = serve(("", 8080)), serve(("", 8443))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/cert.pem", "/tmp/key.pem")
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=secure.serve_forever).start()
plain.serve_forever()
'
"""


def site_manifest() -> str:
    """A web server with a git repository, ports 80 and 443; and a name that has a public address and a private one."""
    container = {
        "name": "site",
        "image": image_name("worker"),
        "command": ["/bin/sh", "-c", _SITE],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    labels = {"app": "site"}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "site"},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [container], "securityContext": security}}},
    }  # fmt: skip
    ports = [("http", 80, 8080), ("https", 443, 8443), ("other", 8080, 8080)]
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "site"},
        "spec": {"selector": labels, "ports": [{"name": n, "port": p, "targetPort": t} for n, p, t in ports]},
    }  # fmt: skip
    mixed = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "mixed"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
    }  # fmt: skip
    addresses = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "mixed", "labels": {"kubernetes.io/service-name": "mixed"}},
        "ports": [{"name": "http", "port": 80}],
        "endpoints": [{"addresses": [a]} for a in ("203.0.113.5", "10.99.99.99")],
    }  # fmt: skip
    return yaml.safe_dump_all([deployment, service, mixed, addresses])


@dataclass
class Walled:
    """A release whose default pool may reach the site; and what one of its workers finds."""

    stack: Stack
    site: str
    mixed: str

    def shell(self, command: str) -> str:
        """What a command in a worker's shell prints, run by Claude Code as a prompt asks."""
        with self.stack.client("shell") as client:
            said = content(chat(client, f"::bash ({command}) 2>&1 || echo status $?\n::results"))
        return "\n".join(json.loads(said))

    def proxy(self, pool: str = "default") -> str:
        (pod,) = [
            p["metadata"]["name"]
            for p in self.stack.cluster.pods("egress")
            if p["metadata"]["labels"]["claude-code-api.io/pool"] == pool
        ]
        return str(pod)

    def logged(self) -> list[dict[str, object]]:
        lines = self.stack.cluster.kubectl("logs", self.proxy()).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def _first_list(cluster: Cluster, proxy: str, host: str) -> None:
    """Wait until Squid has read a list with the host; it says so as it starts or reads anew."""
    command = f"until grep -qxF {host} /tmp/allow; do sleep 0.5; done"
    cluster.run("kubectl", "exec", proxy, "--", "timeout", str(LIST_SECONDS), "sh", "-c", command, seconds=200)


@pytest.fixture(scope="module")
def walled() -> Iterator[Walled]:
    with namespace() as cluster:
        cluster.kubectl("apply", "--filename=-", given=model_manifest())
        cluster.kubectl("apply", "--filename=-", given=site_manifest())
        for name in ("model", "site"):
            cluster.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={PATIENCE:g}s")
        domain = f"{cluster.namespace}.svc.cluster.local"
        address = cluster.get("service", "site")["spec"]["clusterIP"]
        repository, _, tag = image_name("egress").rpartition(":")
        chosen = {
            "egressProxy.enabled": True, "egressProxy.replicas": 1, "egressProxy.otherPools": "{batch}",
            "egressProxy.allow": f"{{site.{domain},mixed.{domain},kubernetes.default.svc.cluster.local}}",
            "egressProxy.privateCIDRs": f"{{{address}/32}}",
            "egressProxy.image.repository": repository, "egressProxy.image.tag": tag,
        }  # fmt: skip
        install(cluster, pool__idleTimeout="0", pool__size=2, **chosen)
        with watching(cluster.kubeconfig, cluster.namespace) as watch:
            stack = Stack(cluster, watch, cluster.url(RELEASE), cluster.url("model"))
            made = Walled(stack, f"site.{domain}", f"mixed.{domain}")
            _first_list(cluster, made.proxy(), made.site)
            yield made


def test_what_the_pool_names_is_reached(walled: Walled) -> None:
    found = walled.shell(f"curl -sS http://{walled.site}/hello.txt; curl -sSk https://{walled.site}/hello.txt")
    assert found.splitlines() == ["hello from the site"] * 2
    found = walled.shell(
        f"git clone --quiet http://{walled.site}/repo.git /tmp/clone && git -C /tmp/clone log --oneline"
    )
    assert found.endswith("first")
    found = walled.shell(f"git -c http.sslVerify=false ls-remote https://{walled.site}/repo.git main")
    assert found.endswith("refs/heads/main")


def test_everything_else_is_refused_and_says_so(walled: Walled) -> None:
    shell = walled.shell
    assert shell("curl -sS https://example.com/") == "curl: (56) CONNECT tunnel failed, response 403\nstatus 56"
    told = shell("curl -sS http://example.com/a?b=c")
    assert told.startswith("Refused by proxy-of-pool-default: the host of http://example.com/a?")
    assert "spec.egress.allow" in told
    told = shell("git ls-remote https://github.com/git/git.git")
    assert "unable to access 'https://github.com/git/git.git/': CONNECT tunnel failed, response 403" in told
    told = shell("/opt/claude-code-api/bin/pip download --no-cache-dir --retries 1 --dest /tmp/x six")
    assert "Tunnel connection failed: 403 Forbidden" in told
    assert "No matching distribution found for six" in told
    told = shell("python3 -c 'import urllib.request as r; r.urlopen(\"https://example.com\")'")
    assert "Tunnel connection failed: 403 Forbidden" in told


def test_npm_says_so_too(walled: Walled, tmp_path: Path) -> None:
    """The workers' image has no npm: this machine's, at the same proxy."""
    with walled.stack.cluster.forwarded(walled.proxy(), 3128) as address:
        env = {**os.environ, "HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": "", "no_proxy": ""}
        command = ["npm", "view", "left-pad", "--registry=https://packages.example.org/", "--fetch-retries=0"]
        done = subprocess.run(
            [*command, f"--cache={tmp_path}"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert done.returncode != 0
    assert "403" in done.stderr, done.stderr


def test_addresses_and_other_ports_are_refused_even_where_the_pool_s_host_is(walled: Walled) -> None:
    refused = "curl: (56) CONNECT tunnel failed, response 403\nstatus 56"
    address = walled.stack.cluster.get("service", "site")["spec"]["clusterIP"]
    for url in (f"https://{address}/", "https://1.1.1.1/", "https://169.254.169.254/", f"https://{walled.site}:8080/"):
        assert walled.shell(f"curl -sS {url}") == refused, url
    assert "not among those" in walled.shell("curl -sS http://169.254.169.254/latest/meta-data/")
    assert "only https on port 443" in walled.shell(f"curl -sS http://{walled.site}:8080/hello.txt")


def test_an_allowed_name_does_not_lead_to_a_private_address(walled: Walled) -> None:
    """As a name would whose owner has turned it to the inside; one private address among several is enough."""
    told = walled.shell("curl -sS http://kubernetes.default.svc.cluster.local/")
    assert "leads to a private address" in told
    assert "403" in walled.shell("curl -sSk https://kubernetes.default.svc.cluster.local/version")
    assert "leads to a private address" in walled.shell(f"curl -sS http://{walled.mixed}/")


HOSTILE = [
    ("CONNECT {site}:22 HTTP/1.1", 403),
    ("CONNECT evil{site}:443 HTTP/1.1", 403),
    ("CONNECT {site}.evil.org:443 HTTP/1.1", 403),
    ("CONNECT {site}@evil.org:443 HTTP/1.1", 403),
    ("CONNECT 2852039166:443 HTTP/1.1", 403),
    ("CONNECT 0xa9fea9fe:443 HTTP/1.1", 403),
    ("CONNECT [::ffff:169.254.169.254]:443 HTTP/1.1", 403),
    ("CONNECT localhost:443 HTTP/1.1", 403),
    ("CONNECT 127.0.0.1:3128 HTTP/1.1", 403),
    ("CONNECT evil.org\0.{site}:443 HTTP/1.1", 400),
    ("GET http://evil.org/ HTTP/1.1\r\nHost: {site}", 403),
    ("GET http://{site}@evil.org/ HTTP/1.1\r\nHost: {site}", 403),
    ("GET https://{site}/ HTTP/1.1\r\nHost: {site}", 403),
    ("GET ftp://{site}/ HTTP/1.1\r\nHost: {site}", 403),
    ("GET cache_object://localhost/info HTTP/1.1", 403),
    ("GET http://proxy-of-pool-default:3128/squid-internal-mgr/info HTTP/1.1\r\nHost: {site}", 403),
    ("GET / HTTP/1.1\r\nHost: {site}", 400),
    ("PURGE http://{site}/ HTTP/1.1\r\nHost: {site}", 403),
    ("CONNECT {upper}:443 HTTP/1.1", 200),
]


def test_what_no_client_would_send_gains_nothing(walled: Walled) -> None:
    found = {}
    with walled.stack.cluster.forwarded(walled.proxy(), 3128) as address:
        for line, _ in HOSTILE:
            found[line] = _status(address, line.format(site=walled.site, upper=walled.site.upper()))
    assert found == dict(HOSTILE)


def _status(address: str, line: str) -> int:
    parts = urlsplit(address)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=30) as connection:
        connection.sendall(f"{line}\r\n\r\n".encode())
        return int(connection.recv(4096).split()[1])


def test_a_pool_s_proxy_knows_that_pool_s_hosts_only_and_follows_them(walled: Walled) -> None:
    """A ClaudePool that the chart did not make names its own; nothing is restarted."""
    cluster = walled.stack.cluster
    asked = f"CONNECT {walled.site}:443 HTTP/1.1"
    before = [p["metadata"]["uid"] for p in cluster.pods("egress")]
    with cluster.forwarded(walled.proxy("batch"), 3128) as address:
        assert _status(address, asked) == 403
        pool = {
            "apiVersion": "claude-code-api.io/v1alpha1", "kind": "ClaudePool", "metadata": {"name": "batch"},
            "spec": {"size": 0, "warm": 0, "egress": {"allow": [f"*.{cluster.namespace}.svc.cluster.local"]}},
        }  # fmt: skip
        cluster.kubectl("apply", "--filename=-", given=json.dumps(pool))
        _first_list(cluster, walled.proxy("batch"), f".{cluster.namespace}.svc.cluster.local")
        _reads_anew(cluster, walled.proxy("batch"))
        assert _status(address, asked) == 200
        assert _status(address, "CONNECT example.com:443 HTTP/1.1") == 403
    assert [p["metadata"]["uid"] for p in cluster.pods("egress")] == before


def _reads_anew(cluster: Cluster, proxy: str) -> None:
    command = [str(tools.find("kubectl")), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={cluster.namespace}"]
    command += ["logs", "--follow", proxy]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
        assert following.stdout is not None
        try:
            anew = (line for line in following.stdout if "Reconfiguring Squid" in line)
            assert next(anew, "")
            assert next((line for line in following.stdout if "Accepting HTTP Socket" in line), "")
        finally:
            following.kill()


def test_wrong_hosts_are_refused_by_the_api_server(walled: Walled) -> None:
    for wrong in ("*", "*.com", "10.0.0.1", "Example.com", "a.org:443", "https://a.org", "a.org/x", ".a.org", "-a.org"):
        patch = json.dumps({"spec": {"egress": {"allow": [wrong]}}})
        told = walled.stack.cluster.kubectl(
            "patch", "claudepool", "default", "--type=merge", f"--patch={patch}", "--dry-run=server", check=False
        )
        assert "spec.egress.allow[0]: Invalid value" in told, wrong


def test_the_model_is_not_reached_through_it_and_the_log_tells_no_paths(walled: Walled) -> None:
    walled.shell(f"curl -sS http://{walled.site}/hello.txt?token=secret-of-the-query")
    logged = walled.logged()
    hosts = {str(entry["host"]) for entry in logged}
    assert walled.site in hosts
    assert not [host for host in hosts if "gateway" in host or host.startswith("model")]
    assert "secret-of-the-query" not in walled.stack.cluster.kubectl("logs", walled.proxy())
    workers = {p["status"]["podIP"] for p in walled.stack.cluster.pods("worker")}
    assert {str(e["client"]) for e in logged if e["method"] == "GET" and e["status"] == 200} <= workers
