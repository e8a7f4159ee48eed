"""A release behind the gateway, shared by teams; and the shell that someone has who has talked Claude Code into it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.stack import RELEASE, Cluster, Stack, install, model_manifest, namespace
from cluster.watching import PATIENCE, watching
from local.harness import chat, content

Json = dict[str, Any]

GATEWAY = f"{RELEASE}-gateway"
AUDIENCE = "claude-code-api-gateway"
FRUGAL = [
    "--set-json=pool.podTemplate=" + json.dumps({
        "spec": {"containers": [{"name": "worker", "resources": {"requests": {"cpu": "10m"}}}]}
    }),
]  # fmt: skip
"""Other tests may have the node full of what pods ask for, though not of what they use."""
TOKEN_FILE = "/var/run/claude-code-api/gateway/token"
PYTHON = "/opt/claude-code-api/bin/python3"

_NOTHING = "(Bash completed with no output)"
"""What the tool says then."""
_AT_ONCE = 30
"""Claude Code shows 30,000 characters of what a command prints."""
_PROBE = """
import json, ssl, sys, urllib.error, urllib.request
trust = ssl._create_unverified_context()
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
found = []
for method, url, headers, body in json.loads(sys.argv[1]):
    asked = urllib.request.Request(url, method=method, headers=headers, data=body.encode() if body else None)
    try:
        with opener.open(asked, timeout=10) as answer:
            found.append([answer.status, answer.read(500).decode(errors="replace")])
    except urllib.error.HTTPError as error:
        found.append([error.code, error.read(500).decode(errors="replace")])
    except OSError as error:
        found.append([0, str(error)])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    url: str
    token: str = ""
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def packed(self) -> list[Any]:
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        kind = {"Content-Type": "application/json"} if self.body else {}
        return [self.method, self.url, bearer | kind | dict(self.headers), self.body]


@dataclass(frozen=True)
class Shell:
    """Commands that Claude Code runs in a conversation's worker, because a prompt says so."""

    client: httpx.Client

    def run(self, script: str) -> str:
        """What a bash script prints; its status does not matter."""
        packed = base64.b64encode(f"{script}\n".encode()).decode()
        told = content(chat(self.client, f"::bash echo {packed} | base64 -d | bash 2>&1; true\n::results"))
        [printed] = json.loads(told)
        return "" if printed == _NOTHING else str(printed)

    def ask(self, *requests: Asked) -> list[tuple[int, str]]:
        """Status and beginning of the body of each; status 0: there was no answer."""
        program = base64.b64encode(_PROBE.encode()).decode()
        found: list[tuple[int, str]] = []
        for some in (requests[i : i + _AT_ONCE] for i in range(0, len(requests), _AT_ONCE)):
            given = base64.b64encode(json.dumps([r.packed() for r in some]).encode()).decode()
            printed = self.run(f'python3 -c "$(echo {program} | base64 -d)" "$(echo {given} | base64 -d)"')
            found += [(status, body) for status, body in json.loads(printed)]
        return found

    def token(self) -> str:
        """The worker's own credential for the gateway."""
        return self.run(f"cat {TOKEN_FILE}").strip()


@dataclass(frozen=True)
class Guarded:
    """The release. `real_key` is the model's, made for it; `keys` the teams' API keys."""

    stack: Stack
    real_key: str
    keys: dict[str, str]

    @property
    def cluster(self) -> Cluster:
        return self.stack.cluster

    def client(self, team: str, conversation: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[team]}"}
        if conversation:
            headers["X-Conversation-ID"] = conversation
        return httpx.Client(base_url=self.stack.url, headers=headers, timeout=180)

    @contextmanager
    def shell(self, team: str, conversation: str) -> Iterator[Shell]:
        with self.client(team, conversation) as client:
            yield Shell(client)

    def pod_of(self, conversation: str) -> Json:
        """The worker pod of a conversation that is Ready."""
        name = self.stack.watch.until_phase(conversation, "Ready").status.pod_name
        return self.cluster.get("pod", name)

    def service(self, name: str) -> str:
        """Its name for pods of any namespace."""
        return f"{name}.{self.cluster.namespace}.svc"

    def gateway_uid(self) -> str:
        return str(self.cluster.get("pod", f"{GATEWAY}-0")["metadata"]["uid"])


@contextmanager
def guarded(teams: Json, *more: str, **chosen: Any) -> Iterator[Guarded]:
    """The chart in a new namespace, with a model's key that nobody else has, and a key for each team."""
    real = f"sk-ant-{secrets.token_urlsafe(30)}"
    with namespace() as cluster:
        cluster.kubectl("apply", "--filename=-", given=model_manifest())
        secret = {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "anthropic"},
            "stringData": {"ANTHROPIC_API_KEY": real},
        }  # fmt: skip
        cluster.kubectl("replace", "--filename=-", given=json.dumps(secret))
        cluster.kubectl("rollout", "status", "deployment/model", f"--timeout={PATIENCE:g}s")
        install(cluster, f"--set-json=teams={json.dumps(teams)}", *FRUGAL, *more, gateway__enabled=True, **chosen)
        with watching(cluster.kubeconfig, cluster.namespace) as watch:
            stack = Stack(cluster, watch, cluster.url(RELEASE), cluster.url("model"))
            yield Guarded(stack, real, {team: _key(cluster, team) for team in teams})


def _key(cluster: Cluster, team: str) -> str:
    """A new API key of the team, by the command."""
    command = [sys.executable, "-m", "claude_router", "keys", "create", team, f"--namespace={cluster.namespace}"]
    env = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def statuses(answers: Sequence[tuple[int, str]]) -> set[int]:
    return {status for status, _ in answers}
