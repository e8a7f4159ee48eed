"""Commands that use up a node: each within bounds of its own, and each ends what it has begun, and no one else's.

After every one of them the neighbour has not been disturbed, and the conversation itself goes on with all its memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from claude_crds.names import session_name
from claude_crds.resources import POOL_LABEL
from cluster.guarding import Guarded, Json, Shell, guarded
from local.harness import chat, content, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NEIGHBOUR = "the-neighbour"
MEMORY, DISK = "700Mi", "160Mi"
LIMITS: Json = {
    "requests": {"cpu": "10m", "memory": "300Mi", "ephemeral-storage": "32Mi"},
    "limits": {"memory": MEMORY, "ephemeral-storage": DISK},
}
MOST_FORKS = 3000
"""The bomb's own bound, far above a sensible `podPidsLimit`."""
_BOMB = f"""
import os, signal, time
children = []
try:
    for _ in range({MOST_FORKS}):
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
except OSError as error:
    print(type(error).__name__, flush=True)
print(len(children), flush=True)
for child in children:
    os.kill(child, 9)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Guarded]:
    template = {"spec": {"containers": [{"name": "worker", "resources": LIMITS}]}}
    given = f"--set-json=pool.podTemplate={json.dumps(template)}"
    with guarded({"alpha": {}}, given, pool__size=4, pool__warm=0, pool__idleTimeout=0) as running:
        yield running


@pytest.fixture(autouse=True)
def neighbour(site: Guarded) -> Iterator[None]:
    """Another conversation's worker on the node: the same pod, never started again, before and after."""
    with site.client("alpha", NEIGHBOUR) as client:
        assert content(chat(client, "::say before")) == "before"
        before = site.pod_of(NEIGHBOUR)
        yield
        assert content(chat(client, "::say after")) == "after"
    after = site.pod_of(NEIGHBOUR)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [s["restartCount"] for s in after["status"]["containerStatuses"]] == [0]
    for part in ("router", "operator", "gateway"):
        for pod in site.cluster.pods(part):
            assert [s["restartCount"] for s in pod["status"]["containerStatuses"]] == [0], part


def tried(site: Guarded, talk: str, script: str) -> None:
    """A turn that need not end well: it may take its own worker with it."""
    with site.shell("alpha", talk) as shell:
        content(chat(shell.client, f"::say I am {talk}"))
        with suppress(httpx.HTTPError, AssertionError, ValueError):
            shell.run(script)


def goes_on(site: Guarded, talk: str) -> None:
    def answered() -> str:
        with suppress(httpx.HTTPError), site.client("alpha", talk) as client:
            answer = chat(client, "::recall")
            return content(answer) if answer.status_code == 200 else ""
        return ""

    assert json.loads(eventually(answered, 120))[0] == f"::say I am {talk}"


def test_a_fork_bomb_ends_at_the_kubelet_s_limit(site: Guarded) -> None:
    """A pod cannot set one: it is `podPidsLimit` in the kubelet's configuration, which most clusters have."""
    node = site.cluster.get("nodes")["items"][0]["metadata"]["name"]
    configuration = json.loads(site.cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/configz"))
    limit = configuration["kubeletconfig"]["podPidsLimit"]
    assert 0 < limit < MOST_FORKS, "the kubelet has no podPidsLimit"
    with site.shell("alpha", "bomber") as shell:
        content(chat(shell.client, "::say I am bomber"))
        failed, made = bomb(shell)
    assert failed == "BlockingIOError", "no more processes"
    assert made < limit
    goes_on(site, "bomber")


def bomb(shell: Shell) -> tuple[str, int]:
    failed, made = shell.run(f"python3 - <<'PROGRAM'\n{_BOMB}\nPROGRAM").split()
    return failed, int(made)


@pytest.mark.parametrize("first", ["", "for p in /proc/[0-9]*; do echo 1000 > $p/oom_score_adj; done 2>/dev/null; "])
def test_who_uses_up_the_memory_loses_its_own_worker_at_most(site: Guarded, first: str) -> None:
    """The second one has the kernel take the shim itself for the worst of all: its container is started again."""
    talk = f"hungry-{len(first)}"
    hog = "python3 -c 'import os; x = [os.urandom(1 << 20) for _ in range(1200)]'"
    tried(site, talk, f"{first}{hog} & {hog}; wait")
    goes_on(site, talk)


def test_who_fills_the_disk_is_evicted_alone_and_comes_back(site: Guarded) -> None:
    """/tmp and HOME count for the pod's ephemeral storage; the kubelet looks every ten seconds or so."""
    talk = "filler"
    with site.shell("alpha", talk) as shell:
        content(chat(shell.client, f"::say I am {talk}"))
        before = site.pod_of(talk)["metadata"]["name"]
        with suppress(httpx.HTTPError, AssertionError):
            shell.run("dd if=/dev/zero of=/tmp/full bs=1M count=400 2>/dev/null; sleep 100")
    goes_on(site, talk)
    assert site.pod_of(talk)["metadata"]["name"] != before
    with site.shell("alpha", talk) as shell:
        assert shell.run("ls /tmp/full 2>/dev/null") == ""


@contextmanager
def apart(site: Guarded, conversation: str, spec: Json) -> Iterator[None]:
    """The conversation is in a pool of its own, whose pods are also as `spec` says; both are gone afterwards."""
    cluster, tenant = site.cluster, "alpha"
    template = {"spec": {**spec, "containers": [{"name": "worker", "resources": LIMITS}]}}
    kept = cluster.get("claudepool", "default")
    pool = {"metadata": {"name": "odd"}, "spec": {**kept["spec"], "size": 1, "podTemplate": template}}
    session = {"metadata": {"name": session_name(tenant, conversation)}, "spec": {
        "conversationID": conversation, "tenant": tenant, "team": tenant, "poolRef": {"name": "odd"},
        "desiredState": "Suspended",
    }}  # fmt: skip
    for kind, body in (("ClaudePool", pool), ("ClaudeSession", session)):
        made = {"apiVersion": kept["apiVersion"], "kind": kind, **body}
        cluster.kubectl("create", "--filename=-", given=json.dumps(made))
    try:
        yield
    finally:
        site.stack.forget(conversation)
        cluster.kubectl("delete", "claudepool", "odd")


def test_user_namespaces_where_the_node_has_them(site: Guarded) -> None:
    """`hostUsers: false` by the pool's podTemplate: nobody in the pod is anybody on the node. Else it says why not."""
    with apart(site, "mapped", {"hostUsers": False}), site.shell("alpha", "mapped") as shell:
        answer = chat(shell.client, "::bash cat /proc/self/uid_map\n::results")
        if answer.status_code == 200:
            [inside, outside, count] = json.loads(content(answer))[0].split()
            assert inside == "0"
            assert int(outside) >= 65536, "another range of users than the node's"
            assert int(count) == 65536
        else:
            assert answer.status_code == 503, answer.text
            [pod] = [p.name for p in site.stack.watch.pods.items() if p.metadata.labels.get(POOL_LABEL) == "odd"]
            assert "does not support user namespaces" in site.cluster.kubectl("describe", "pod", pod)


def test_another_runtime_by_the_pod_template(site: Guarded) -> None:
    """`runtimeClassName`, with a class for the node's own runtime: gVisor and Kata are classes like it."""
    name = f"test-{site.cluster.namespace}"
    one = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "runc"}
    site.cluster.kubectl("create", "--filename=-", given=json.dumps(one))
    try:
        with apart(site, "elsewhere", {"runtimeClassName": name}), site.client("alpha", "elsewhere") as client:
            assert content(chat(client, "::say hello")) == "hello"
            assert site.pod_of("elsewhere")["spec"]["runtimeClassName"] == name
    finally:
        site.cluster.kubectl("delete", "runtimeclass", name, "--wait=false")
