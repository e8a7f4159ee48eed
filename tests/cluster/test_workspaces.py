"""Workspaces from git, on the cluster: a host that asks for a password, spares, resumes, forks, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import git_server
from claude_crds.names import session_name
from claude_crds.resources import CLONED_CONDITION, GIT_CONTAINER, SESSION_LABEL
from claude_crds.views import ClaudeSession, Condition, condition
from claude_operator.slots import cloning
from cluster.node.__main__ import image_name
from cluster.stack import _LOCKED, _SECURE, Json, Stack, installed, reasons
from git_certificate import certificate
from local.harness import chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PASSWORD = "pw-7c1d0a-that-no-worker-has"
URL = "https://git/repo.git"
GIT: Json = {"url": URL, "secretRef": {"name": "git-reader"}}


def host_manifest() -> str:
    """The git server, its certificate, and the Secrets with a right and a wrong password."""
    made = certificate("git")
    script = (Path(git_server.__file__)).read_text()
    labels = {"app": "git"}
    command = ["python3", "/host/git_server.py", "/tmp/repositories", "/certificate/cert", "/certificate/key", "8443"]
    environment = [{"name": "USERNAME", "value": "reader"}, {"name": "PASSWORD", "value": PASSWORD}]
    mounts = [("host", "/host"), ("certificate", "/certificate"), ("tmp", "/tmp")]
    container: Json = {
        "name": "git", "image": image_name("worker"), "imagePullPolicy": "IfNotPresent", "command": command,
        "env": environment, "securityContext": _LOCKED, "readinessProbe": {"tcpSocket": {"port": 8443}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts],
    }  # fmt: skip
    volumes = [
        {"name": "host", "configMap": {"name": "git-server"}},
        {"name": "certificate", "secret": {"secretName": "git-certificate"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    spec = {"containers": [container], "securityContext": _SECURE, "volumes": volumes}
    objects: list[Json] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "git-server"},
         "data": {"git_server.py": script, "ca.crt": made.authority}},
        _secret("git-certificate", cert=made.certificate, key=made.key),
        _secret("git-reader", **{"username": "reader", "password": PASSWORD, "ca.crt": made.authority}),
        _secret("git-wrong", **{"username": "reader", "password": "wr0ng-w0rd", "ca.crt": made.authority}),
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "git"},
         "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "git"},
         "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": 8443}]}},
    ]  # fmt: skip
    return yaml.safe_dump_all(objects)


def _secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


TEMPLATE = {"spec": {
    "containers": [{"name": "worker", "resources": {"requests": {"cpu": "20m"}}}],
    "volumes": [{"name": "authority", "configMap": {"name": "git-server"}}],
    "initContainers": [{
        "name": GIT_CONTAINER, "env": [{"name": "GIT_SSL_CAINFO", "value": "/authority/ca.crt"}],
        "volumeMounts": [{"name": "authority", "mountPath": "/authority"}],
    }],
}}  # fmt: skip
"""Small workers; and the host's own authority for clones that clients ask for, which come without a Secret."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    few = {"router__replicas": 1, "operator__replicas": 1}
    with installed(pool__idleTimeout=0, pool__warm=0, pool__size=4, pool__queueTimeout="60s", **few) as running:
        running.cluster.kubectl("apply", "--filename=-", given=host_manifest())
        running.cluster.kubectl("rollout", "status", "deployment/git", "--timeout=90s")
        running.pool(workspace={"git": GIT, "gitHosts": None}, warm=1, podTemplate=TEMPLATE)
        running.watch.until_warm()
        yield running


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    yield
    stack.forget(*[s.spec.conversation_id for s in stack.watch.sessions.items()])


def shell(stack: Stack, conversation: str, command: str, **headers: str) -> str:
    """What a command prints in the conversation's worker."""
    with stack.client(conversation) as client:
        client.headers.update(headers)
        answer = chat(client, f"::bash {command}\n::results")
    assert answer.status_code == 200, answer.text
    [result] = json.loads(content(answer))
    return str(result)


def refused(stack: Stack, conversation: str, **headers: str) -> tuple[int, Json]:
    with stack.client(conversation) as client:
        client.headers.update(headers)
        answer = chat(client, "::say hello")
    assert answer.status_code != 200
    return answer.status_code, answer.json()["error"]


def clones(stack: Stack) -> int:
    """How many clones the server has served."""
    log = stack.cluster.kubectl("logs", "deployment/git")
    return sum(line.startswith("POST") and line.endswith("let-in") for line in log.splitlines())


def spare(stack: Stack) -> None:
    """Wait until there is one that has cloned: nothing else clones after that of its own accord."""

    def there() -> bool:
        free = [pod for pod in stack.watch.pods.items() if SESSION_LABEL not in pod.metadata.labels and not pod.leaving]
        return any((clone := cloning(pod)) is not None and clone.done for pod in free)

    stack.watch.until("a spare", there)


def cloned(stack: Stack, conversation: str) -> Condition:
    """The condition, once there is one."""

    def there() -> Condition | None:
        session = stack.watch.session(conversation)
        return condition(session.status.conditions, CLONED_CONDITION) if session else None

    return stack.watch.until(f"{conversation} has {CLONED_CONDITION}", there)


def session_of(stack: Stack, conversation: str, **workspace: Any) -> None:
    """A ClaudeSession that a person makes; the first request asks for its worker."""
    spec = {"conversationID": conversation, "desiredState": "Suspended", "workspace": workspace}
    body = {
        "apiVersion": "claude-code-api.io/v1alpha1", "kind": "ClaudeSession",
        "metadata": {"name": session_name("default", conversation)}, "spec": spec,
    }  # fmt: skip
    stack.cluster.kubectl("apply", "--filename=-", given=json.dumps(body))
    stack.watch.until(f"{conversation} is seen", lambda: stack.watch.session(conversation))


def pod_of(stack: Stack, conversation: str) -> Json:
    session = stack.watch.until_phase(conversation, "Ready")
    return stack.cluster.get("pod", session.status.pod_name)


def suspended(stack: Stack, conversation: str) -> ClaudeSession:
    session = stack.watch.session(conversation)
    assert session is not None
    stack.cluster.patch("claudesession", session.name, {"spec": {"desiredState": "Suspended"}})
    return stack.watch.until_phase(conversation, "Suspended")


def test_a_spare_has_it_and_the_conversation_that_claims_it_works_in_it(stack: Stack) -> None:
    before = clones(stack)
    assert shell(stack, "claims", "cat README.md; git log --oneline | wc -l") == f"{git_server.SECOND}2"
    told = cloned(stack, "claims")
    assert told.status == "True"
    assert told.message.startswith(f"Cloned {URL} at ")
    session = stack.watch.session("claims")
    assert session is not None
    assert "Claimed" in reasons(stack, session.name, ["Claimed"])
    spare(stack)
    assert clones(stack) > before > 0, "for the next spare"


def test_the_credential_is_in_no_worker(stack: Stack) -> None:
    # As a pattern that is not itself what it finds.
    pattern = f"{PASSWORD[:5]}[{PASSWORD[5]}]{PASSWORD[6:]}"
    everywhere = "/ --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev"
    found = shell(
        stack,
        "searches",
        "cat .git/config; "
        f'echo processes $(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -ac "{pattern}"); '
        f'echo files $(grep -rl "{pattern}" {everywhere} 2>/dev/null | wc -l); '
        "echo folder $(ls /var/run/claude-code-api/git 2>/dev/null | wc -l); "
        "echo mounts $(grep -c workspace-git /proc/mounts)",
    )
    assert found.splitlines()[-4:] == ["processes 0", "files 0", "folder 0", "mounts 0"]
    assert f"url = {URL}" in found
    assert "credential" not in found
    pod = pod_of(stack, "searches")
    log = stack.cluster.kubectl("logs", pod["metadata"]["name"], f"--container={GIT_CONTAINER}")
    seen = json.dumps(pod) + log + json.dumps(stack.cluster.get("claudesessions,claudepools,events,pvc"))
    assert PASSWORD not in seen
    assert f"Cloned {URL}" in log


def test_a_resume_clones_nothing_and_overwrites_nothing(stack: Stack) -> None:
    shell(stack, "resumes", "rm README.md && echo mine > mine.txt && echo ok")
    spare(stack)
    suspended(stack, "resumes")
    before = clones(stack)
    assert shell(stack, "resumes", "ls") == "mine.txt"
    pod = pod_of(stack, "resumes")
    assert "initContainers" not in pod["spec"]
    assert "git-reader" not in json.dumps(pod["spec"])
    assert cloned(stack, "resumes").status == "True"
    assert clones(stack) == before


def test_a_fork_is_a_copy_and_clones_nothing(stack: Stack) -> None:
    shell(stack, "forked", "rm README.md && echo mine > mine.txt && echo ok")
    spare(stack)
    before = clones(stack)
    with stack.client() as client:
        answer = client.post("/conversations/forked/fork", json={"id": "fork"})
    assert answer.status_code == 201, answer.text
    assert shell(stack, "fork", "ls; git status --short") == "mine.txt\n D README.md\n?? mine.txt"
    assert clones(stack) == before
    assert "initContainers" not in pod_of(stack, "fork")["spec"]
    stack.forget("forked", "fork")


def test_a_session_of_its_own_git_does_not_take_a_spare(stack: Stack) -> None:
    spare(stack)
    session_of(stack, "tagged", git={**GIT, "ref": "v1"})
    assert shell(stack, "tagged", "cat README.md") == git_server.FIRST.strip()
    assert cloned(stack, "tagged").message.startswith(f"Cloned {URL}#v1 at ")
    session = stack.watch.session("tagged")
    assert session is not None
    assert "Claimed" not in reasons(stack, session.name, ["Started"])
    session_of(stack, "bare", empty=True)
    assert shell(stack, "bare", "ls | wc -l") == "0"


@pytest.mark.parametrize(
    ("git", "told"),
    [
        ({**GIT, "ref": "nowhere"}, "Remote branch nowhere not found"),
        ({**GIT, "secretRef": {"name": "git-wrong"}}, "Authentication failed"),
        ({**GIT, "secretRef": {"name": "not-there"}}, "It wants a credential"),
        ({**GIT, "url": "https://git/other.git"}, "not found"),
        ({**GIT, "url": "https://no-such-host/x.git"}, "Could not resolve host"),
    ],
)
def test_what_git_says_is_told(stack: Stack, git: Json, told: str) -> None:
    conversation = f"fails-{told.split()[0].lower()}"  # each its own, since Events outlive what they are about
    session_of(stack, conversation, git=git)
    status, error = refused(stack, conversation)
    assert (status, error["code"]) == (502, "session_failed")
    assert "could not be cloned from https://" in error["message"]
    assert told in error["message"]
    session = stack.watch.until_phase(conversation, "Failed")
    found = cloned(stack, conversation)
    assert (found.status, found.reason) == ("False", "WorkspaceNotCloned")
    assert told in found.message
    reasons(stack, session.name, ["Failed"])
    events = stack.cluster.get("events", f"--field-selector=involvedObject.name={session.name}")["items"]
    assert any(told in event["message"] for event in events)
    assert "wr0ng-w0rd" not in json.dumps([events, stack.cluster.get("claudesession", session.name), error])


def test_one_that_failed_is_cloned_once_it_can_be(stack: Stack) -> None:
    session_of(stack, "mends", git={**GIT, "secretRef": {"name": "late"}})
    refused(stack, "mends")
    failed = stack.watch.until_phase("mends", "Failed").status.message
    data = stack.cluster.get("secret", "git-reader")["data"]
    late = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "data": data}
    stack.cluster.kubectl("apply", "--filename=-", given=json.dumps(late))
    with stack.client("mends") as client:
        while (answer := chat(client, "::bash cat README.md\n::results")).status_code == 502:
            assert failed in answer.text, "it was asked again within the pause after a failure"
    assert json.loads(content(answer)) == [git_server.SECOND.strip()]
    assert cloned(stack, "mends").status == "True"


def test_clients_may_name_a_repository_only_where_the_pool_says_so(stack: Stack) -> None:
    public = "https://git/public/repo.git"
    status, error = refused(stack, "asks", **{"X-Claude-Workspace-Git": public})
    assert (status, error["code"]) == (400, "workspace_git_not_allowed")
    stack.pool(workspace={"gitHosts": ["git"]})
    stack.watch.until("seen", lambda: stack.watch.pools.get("default").spec.workspace.git_hosts == ("git",))  # type: ignore[union-attr]
    found = shell(stack, "asks", "cat README.md feature.txt", **{"X-Claude-Workspace-Git": f"{public}#feature"})
    assert found == f"{git_server.SECOND}new"
    session = stack.watch.session("asks")
    assert session is not None
    assert session.spec.workspace.git is not None
    assert session.spec.workspace.git.secret_ref is None
    # The pool's credential is not used for what clients name.
    status, error = refused(stack, "asks-for-more", **{"X-Claude-Workspace-Git": URL})
    assert status == 502
    assert "It wants a credential" in error["message"]
    for bad in (
        "https://elsewhere/x",
        "http://git/public/repo.git",
        "https://a:b@git/x",
        "file:///etc",
        "ext::sh -c id",
    ):
        status, error = refused(stack, "asks-otherwise", **{"X-Claude-Workspace-Git": bad})
        assert status == 400, bad
    assert stack.watch.session("asks-otherwise") is None


@pytest.mark.parametrize(
    ("workspace", "told"),
    [
        ({"git": {"url": "http://git/repo.git"}}, "https://HOST/PATH"),
        ({"git": {"url": "https://a:b@git/repo.git"}}, "https://HOST/PATH"),
        ({"git": {"url": "ext::sh -c id"}}, "https://HOST/PATH"),
        ({"git": {"url": "https://git/r", "ref": "--upload-pack=id"}}, "not beginning with -"),
        ({"git": {"url": "https://git/r", "ref": "a..b"}}, "not beginning with -"),
        ({"git": {"url": "https://git/r"}, "empty": True}, "not both"),
        ({"git": {"url": "https://git/r", "depth": -1}}, "greater than or equal to 0"),
    ],
)
def test_the_api_server_refuses_what_is_not_safe(stack: Stack, workspace: Json, told: str) -> None:
    body = {
        "apiVersion": "claude-code-api.io/v1alpha1", "kind": "ClaudeSession", "metadata": {"name": "x"},
        "spec": {"conversationID": "x", "workspace": workspace},
    }  # fmt: skip
    said = stack.cluster.kubectl("apply", "--dry-run=server", "--filename=-", given=json.dumps(body), check=False)
    assert told in said


def test_a_workspace_cannot_be_changed(stack: Stack) -> None:
    session_of(stack, "fixed", git=GIT)
    name = session_name("default", "fixed")
    for patch in ({"git": {"ref": "v1"}}, None):
        said = stack.cluster.kubectl(
            "patch", "claudesession", name, "--type=merge", f"--patch={json.dumps({'spec': {'workspace': patch}})}",
            check=False,
        )  # fmt: skip
        assert "cannot be" in said
