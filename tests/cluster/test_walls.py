"""What someone with a real shell in a worker reaches: commands that Claude Code runs because a prompt says so.

The network of a bare node lets everything through, so that what refuses here is the other end itself. What policies
would have stopped before is evaluated by their definition, on the objects that the API server holds.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator

import pytest

from claude_crds.resources import labels
from cluster.guarding import AUDIENCE, GATEWAY, Asked, Guarded, Json, Shell, guarded, statuses
from cluster.policies import Place, allowed
from cluster.stack import RELEASE
from local.harness import chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ATTACKER, VICTIM = "the-attacker", "the-victim"
TEAMS: Json = {"mallory": {}, "victims": {}}
METADATA = {
    "169.254.169.254": "AWS, Google Cloud, Azure, OpenStack",
    "169.254.170.2": "AWS, credentials of tasks",
    "169.254.170.23": "AWS, credentials of pods",
    "fd00:ec2::254": "AWS",
    "fd00:ec2::23": "AWS, credentials of pods",
    "fd20:ce::254": "Google Cloud",
    "100.100.100.200": "Alibaba Cloud",
    "192.0.0.192": "Oracle Cloud",
}
WIRE_SERVER = "168.63.129.16"
"""Azure's: a public address, on ports that nothing may reach."""


@pytest.fixture(scope="module")
def site() -> Iterator[Guarded]:
    with guarded(TEAMS, pool__size=5, pool__idleTimeout=0) as running:
        running.stack.watch.until_warm()
        yield running


@pytest.fixture(scope="module")
def shell(site: Guarded) -> Iterator[Shell]:
    with site.shell("mallory", ATTACKER) as shell:
        yield shell


@pytest.fixture(scope="module")
def secret(site: Guarded) -> str:
    """What the victim has on its volume."""
    secret = f"secret-{secrets.token_hex(12)}"
    with site.client("victims", VICTIM) as client:
        content(chat(client, f"::write diary.txt {secret}\n::say noted"))
    return secret


def own(shell: Shell) -> list[str]:
    """All that a worker has which could be taken for a token: none, its gateway's, and the hash of its shim's."""
    environment = shell.run("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
    digests = {line.partition("=")[2] for line in environment.splitlines() if line.startswith("TOKEN_SHA256=")}
    assert len(digests) == 1
    return ["", shell.token(), *digests]


# -- the API server ----------------------------------------------------------------------------------------------------


def test_the_api_server_and_the_kubelet_do_not_know_it(site: Guarded, shell: Shell) -> None:
    assert shell.run("ls -A /var/run/secrets 2>/dev/null; find / -path '*kubernetes.io/service*' 2>/dev/null") == ""
    server = "https://kubernetes.default.svc"
    ours = f"{server}/apis/claude-code-api.io/v1alpha1/namespaces/{site.cluster.namespace}"
    session = {
        "apiVersion": "claude-code-api.io/v1alpha1", "kind": "ClaudeSession", "metadata": {"name": "mine"},
        "spec": {"conversationID": "mine", "workspaceClaimName": "anyone-s"},
    }  # fmt: skip
    node = f"https://{site.cluster.node_address()}:10250"
    asked = [
        Asked(method, url, token, body)
        for token in own(shell)
        for method, url, body in (
            ("GET", f"{server}/api/v1/namespaces/{site.cluster.namespace}/secrets/anthropic", ""),
            ("GET", f"{server}/api/v1/namespaces/{site.cluster.namespace}/pods", ""),
            ("GET", f"{ours}/claudesessions", ""),
            ("POST", f"{ours}/claudesessions", json.dumps(session)),
            ("PATCH", f"{ours}/claudeteams/mallory", "{}"),
            ("GET", f"{node}/pods", ""),
            ("POST", f"{node}/run/{site.cluster.namespace}/{RELEASE}-gateway-0/gateway?cmd=id", ""),
        )
    ]
    answers = shell.ask(*asked)
    for one, (status, body) in zip(asked, answers, strict=True):
        # Nobody may do nothing (403), and a token that is for others is no token (401).
        assert status in ((401,) if one.token or ":10250" in one.url else (401, 403)), (one.url, status, body)


# -- other parts -------------------------------------------------------------------------------------------------------


def test_another_s_shim_obeys_none_of_what_it_has(site: Guarded, shell: Shell, secret: str) -> None:
    address = site.pod_of(VICTIM)["status"]["podIP"]
    base = f"http://{address}:8080"
    turn = json.dumps({"messages": [{"role": "user", "content": "::recall"}]})
    asked = [
        Asked(method, base + path, token, body)
        for token in own(shell)
        for method, path, body in (
            ("GET", "/status", ""), ("GET", "/transcript", ""), ("GET", "/metrics", ""), ("POST", "/drain", ""),
            ("POST", "/v1/chat/completions", turn), ("POST", "/v1/messages", turn),
            ("GET", "/files/diary.txt", ""), ("GET", "/files", ""), ("PUT", "/files/diary.txt", "{}"),
            ("GET", "/export", ""), ("PUT", "/import", "x"),
        )
    ]  # fmt: skip
    answers = shell.ask(*asked)
    assert statuses(answers) == {401}
    assert secret not in str(answers)
    assert statuses(shell.ask(Asked("GET", f"{base}/healthz"), Asked("GET", f"{base}/readyz"))) <= {200, 503}


def test_the_router_wants_a_key_that_no_worker_has(site: Guarded, shell: Shell, secret: str) -> None:
    turn = json.dumps({"messages": [{"role": "user", "content": "::recall"}]})
    bases = [f"http://{site.service(RELEASE)}"]
    bases += [f"http://{pod['status']['podIP']}:3000" for pod in site.cluster.pods("router")]
    asked = [
        Asked(method, base + path, token, body, (("X-Conversation-ID", VICTIM), ("X-Claude-Team", "victims")))
        for base in bases
        for token in own(shell)
        for method, path, body in (
            ("GET", "/conversations", ""), ("GET", f"/conversations/{VICTIM}", ""),
            ("GET", f"/conversations/{VICTIM}/files/diary.txt", ""), ("DELETE", f"/conversations/{VICTIM}", ""),
            ("POST", "/v1/chat/completions", turn), ("POST", "/v1/messages", turn), ("GET", "/v1/usage", ""),
        )
    ]  # fmt: skip
    answers = shell.ask(*asked)
    assert statuses(answers) == {401}
    assert secret not in str(answers)


def test_with_its_own_team_s_key_another_team_s_conversation_is_none(site: Guarded, shell: Shell, secret: str) -> None:
    """As if somebody had left the key in the workspace."""
    base, key = f"http://{site.service(RELEASE)}", site.keys["mallory"]
    listed, found, file, gone = shell.ask(
        Asked("GET", f"{base}/conversations", key),
        Asked("GET", f"{base}/conversations/{VICTIM}", key),
        Asked("GET", f"{base}/conversations/{VICTIM}/files/diary.txt", key),
        Asked("DELETE", f"{base}/conversations/{VICTIM}?purge=true", key),
    )
    assert listed[0] == 200
    assert ATTACKER in listed[1]
    assert VICTIM not in listed[1]
    assert [status for status, _ in (found, file, gone)] == [404, 404, 404]
    with site.client("victims", VICTIM) as client:
        assert secret in content(chat(client, "::bash cat diary.txt\n::results"))


def test_no_port_of_ours_does_anything_for_it(site: Guarded, shell: Shell, secret: str) -> None:
    """Health and numbers are all that is told to everybody: no conversation, no session, no key."""
    pods = [pod for part in ("router", "operator", "gateway") for pod in site.cluster.pods(part)]
    asked = [
        Asked(method, f"http://{pod['status']['podIP']}:{port['containerPort']}{path}", token)
        for pod in pods
        for port in pod["spec"]["containers"][0]["ports"]
        for token in own(shell)
        for method, path in (
            ("GET", "/usage?by=session"), ("GET", "/conversations"), ("GET", "/metrics"), ("GET", "/debug"),
            ("POST", "/readyz"), ("DELETE", "/usage"), ("POST", "/drain"),
        )
    ]  # fmt: skip
    answers = shell.ask(*asked)
    assert statuses(answers) <= {200, 401, 404, 405}
    for one, (status, body) in zip(asked, answers, strict=True):
        assert status != 200 or one.url.endswith(("/metrics", "/readyz")), (one, body)
        assert not any(word in body for word in (VICTIM, secret, site.real_key, *site.keys.values())), one
    pages = " ".join(one.url for one in asked if one.url.endswith("/metrics"))
    numbers = shell.run(f"curl --silent {pages} > /tmp/numbers; wc -l < /tmp/numbers; grep -e {VICTIM} /tmp/numbers")
    assert int(numbers) > 100, "only their count: the victim is in none"


# -- volumes and processes ---------------------------------------------------------------------------------------------


def test_another_s_volume_and_processes_are_not_there(site: Guarded, shell: Shell, secret: str) -> None:
    mine = f"mine-{secrets.token_hex(12)}"
    # What is searched for must not be in the command, which is in the conversation's own memory.
    halves = [f"'{word[:9]}' '{word[9:]}'" for word in (secret, mine)]
    shell.run(f"printf '%s%s' {halves[1]} > diary.txt")
    search = "grep --recursive --files-with-matches --devices=skip --fixed-strings --exclude-dir=proc --exclude-dir=sys"
    found = [shell.run(f"{search} --regexp=\"$(printf '%s%s' {half})\" / 2>/dev/null") for half in halves]
    assert found == ["", "/session/workspace/diary.txt"]
    assert site.pod_of(VICTIM)["metadata"]["name"] not in shell.run("cat /proc/mounts /proc/*/environ | tr '\\0' '\\n'")
    users = shell.run("cat /proc/[0-9]*/status | grep ^Uid | sort -u")
    assert users.split() == ["Uid:", *["10001"] * 4], "nobody else's processes"
    kept = shell.run("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status").split()
    assert kept == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    ways = ("mount -t tmpfs none /mnt", "touch /etc/x", "touch /usr/x", "mknod /tmp/disk b 8 0", "chroot / true",
            "nsenter -t 1 -m true", "unshare -m true", "chmod u+s /bin/sh",
            "cat /proc/1/" + "root/etc/shadow")  # fmt: skip
    assert shell.run("; ".join(f"{way} >/dev/null 2>&1 && echo {way}" for way in ways)) == ""
    assert shell.run("ls /mnt; ls /etc/x /usr/x /tmp/disk 2>/dev/null") == ""


# -- the gateway -------------------------------------------------------------------------------------------------------


def message(token: str, **headers: str) -> Asked:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "::say paid"}]}
    return Asked("POST", f"http://{GATEWAY}:8090/v1/messages", token, json.dumps(body), tuple(headers.items()))


def issued(site: Guarded, account: str, *bound: str, audience: str = AUDIENCE) -> str:
    return site.cluster.kubectl("create", "token", account, f"--audience={audience}", *bound).strip()


def bound_to(pod: str) -> list[str]:
    return ["--bound-object-kind=Pod", f"--bound-object-name={pod}"]


def test_the_gateway_takes_only_a_token_of_a_worker_of_a_session(site: Guarded, shell: Shell) -> None:
    site.stack.watch.until_warm()
    worker = f"{RELEASE}-worker"
    spare = next(p.name for p in site.stack.watch.pods.items() if "claude-code-api.io/session" not in p.metadata.labels)
    gateways = site.cluster.kubectl(
        "exec", f"{GATEWAY}-0", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"
    ).strip()
    name = site.pod_of(ATTACKER)["metadata"]["name"]
    head, payload, signature = shell.token().split(".")
    refused = {
        "none": message(""),
        "the hash of the shim's": message(own(shell)[2]),
        "of nobody's pod": message(issued(site, worker)),
        "of a pod that is no worker": message(issued(site, f"{RELEASE}-router", *bound_to(router_pod(site)))),
        "of a spare": message(issued(site, worker, *bound_to(spare))),
        "the gateway's own, for the API server": message(gateways),
        "its own pod's, for another audience": message(issued(site, worker, *bound_to(name), audience="x")),
        "its own, another's signature": message(f"{head}.{payload}.{gateways.split('.')[2]}"),
        "its own, unsigned": message(f"eyJhbGciOiJub25lIn0.{payload}."),
        "a team's API key": message(site.keys["mallory"]),
        "no token": message("sk-ant-anything"),
    }
    before = site.stack.mark()
    answers = shell.ask(*refused.values())
    assert dict(zip(refused, [status for status, _ in answers], strict=True)) == dict.fromkeys(refused, 401)
    assert not [e for e in site.stack.log(before) if e["prompts"][-1:] == ["::say paid"]], "the model saw none of it"
    assert signature
    [(status, body)] = shell.ask(message(shell.token(), **{"X-Claude-Team": "victims", "X-Api-Key": "sk-mine"}))
    assert status == 200, body
    paid = [e for e in site.stack.log(before) if e["prompts"][-1:] == ["::say paid"]]
    assert [e["credential"] for e in paid] == [hashlib.sha256(site.real_key.encode()).hexdigest()]


def router_pod(site: Guarded) -> str:
    return str(site.cluster.pods("router")[0]["metadata"]["name"])


def test_a_worker_s_own_token_ends_with_its_session(site: Guarded, shell: Shell) -> None:
    """Stolen from a conversation, kept elsewhere, and still within its ten minutes."""
    with site.shell("mallory", "thrown-away") as other:
        token = other.token()
    assert statuses(shell.ask(message(token))) == {200}, "as long as there is its session"
    site.stack.forget("thrown-away")
    [(status, body)] = shell.ask(message(token))
    assert status == 401, body
    assert statuses(shell.ask(message(shell.token()))) == {200}


def test_the_gateway_does_nothing_else_for_a_worker(site: Guarded, shell: Shell) -> None:
    token, base = shell.token(), f"http://{GATEWAY}:8090"
    paths = ["/v1/files", "/v1/organizations/api_keys", "/v1/messages/batches", "/usage", "/metrics", "/readyz",
             "/v1/models/../../metrics", "//evil.example/v1/messages", "/v1/complete"]  # fmt: skip
    assert statuses(shell.ask(*[Asked("GET", base + path, token) for path in paths])) == {404}
    assert statuses(shell.ask(*[Asked("POST", base + path, token, "{}") for path in paths])) == {404}
    for told in (token, own(shell)[2], site.keys["mallory"]):
        assert statuses(shell.ask(Asked("GET", f"http://{GATEWAY}:8091/usage", told))) == {401}


# -- what policies would stop ------------------------------------------------------------------------------------------


def test_where_policies_are_enforced_it_reaches_the_gateway_s_port_and_names_alone(site: Guarded) -> None:
    """By the objects in the cluster, and the addresses that its parts have there."""
    cluster = site.cluster
    policies = cluster.get("networkpolicies")["items"]
    pods = {pod["metadata"]["name"]: pod for pod in cluster.get("pods")["items"]}
    places = {
        name: Place(pod["status"]["podIP"], cluster.namespace, pod["metadata"]["labels"])
        for name, pod in pods.items()
        if "podIP" in pod["status"]
    }
    me = places[site.pod_of(ATTACKER)["metadata"]["name"]]
    assert me.labels.items() >= labels("default").items()
    server = cluster.get("service", "kubernetes", "--namespace=default")["spec"]["clusterIP"]
    others = {**places, "API server": Place(server), "node": Place(cluster.node_address()),
              **{why: Place(address) for address, why in METADATA.items()}, "Azure's": Place(WIRE_SERVER)}  # fmt: skip
    ports = (22, 53, 80, 443, 2379, 3000, 6443, 8000, 8080, 8081, 8090, 8091, 10250, 10255, 32526)
    reached = {(name, port) for name, place in others.items() for port in ports if allowed(policies, me, place, port)}
    assert reached == {(f"{GATEWAY}-0", 8090)}
    for component in ("worker", "gateway", "router", "operator"):
        source = next(p for p in places.values() if p.labels.get("app.kubernetes.io/component") == component)
        for address in METADATA:
            blocked = [port for port in (80, 443) if allowed(policies, source, Place(address), port)]
            # Where the API server is the chart cannot know: router, operator and gateway may look for it anywhere.
            assert blocked in ([], [443]), (component, address)
            assert component != "worker" or not blocked
