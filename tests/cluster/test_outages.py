"""The cluster itself fails for a while: the API server, the kubelet, and watches that have missed deletions."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from cluster.host import kill
from cluster.node import bare, control
from cluster.node.__main__ import current
from cluster.stack import Stack, installed
from cluster.test_faults import Told, ended_well, stream, worker
from cluster.watching import PATIENCE
from local.harness import chat, content

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(current()) and current() is not bare, reason="a part of the cluster has to be stopped"),
]

AWAY_SECONDS = 30


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installed(pool__idleTimeout=0, pool__size=4, pool__queueTimeout="20s") as running:
        running.watch.until_warm()
        yield running


def part(verb: str, name: str) -> None:
    control.ask(bare.run_folder(), verb, name)


def api_server_answers(stack: Stack) -> bool:
    return stack.cluster.kubectl("get", "--raw=/readyz", check=False) == "ok"


def test_the_api_server_is_away(stack: Stack) -> None:
    """Live conversations go on as if nothing were; a new one is told why it cannot be; afterwards all is as before."""
    told, mark = Told(stack, "goes-on"), stack.mark()
    told.say("before")
    running = stream(told, "through-it", AWAY_SECONDS - 5)
    part("kill", "kube-apiserver")
    try:
        other = Told(stack, "goes-on-too")
        with stack.client("is-new") as client:
            answer = chat(client, "::say too early")
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "cluster_unreachable"
        assert answer.headers["retry-after"]
        assert ended_well(running.text())
        told.maybe.clear()
        told.prompts.append("::say through-it\n::sleep 25\n::say end of through-it")
        told.say("while it is away")
    finally:
        part("start", "kube-apiserver")
    stack.watch.until("the API server is back", lambda: api_server_answers(stack))
    other.say("new work goes on")
    told.say("after it")
    told.holds(mark)
    other.holds(mark)


def test_the_kubelet_is_restarted(stack: Stack) -> None:
    told, mark = Told(stack, "kubelet"), stack.mark()
    told.say("before")
    pod = worker(stack, told.name).name
    running = stream(told, "through-it", 8)
    part("kill", "kubelet")
    part("start", "kubelet")
    assert ended_well(running.text())
    told.maybe.clear()
    told.prompts.append("::say through-it\n::sleep 8\n::say end of through-it")
    told.say("after it")
    assert worker(stack, told.name).name == pod
    Told(stack, "a-new-pod").say("can be started")
    told.holds(mark)


def test_watches_that_have_missed_deletions(stack: Stack) -> None:
    """Routers and operators stand still while a session is deleted and the API server forgets what it had told whom."""
    gone, kept, mark = Told(stack, "deleted-meanwhile"), Told(stack, "kept-meanwhile"), stack.mark()
    gone.say("soon forgotten")
    kept.say("remembered")
    first = worker(stack, gone.name)
    uids = [p["metadata"]["uid"] for part in ("router", "operator") for p in stack.cluster.pods(part)]
    for uid in uids:
        assert kill(uid, b"claude_", number=signal.SIGSTOP) == 1
    try:
        name = stack.watch.until_phase(gone.name, "Ready").name
        stack.cluster.kubectl("delete", "claudesession", name)
        part("kill", "kube-apiserver")
        part("start", "kube-apiserver")
        stack.watch.until("the API server is back", lambda: api_server_answers(stack))
    finally:
        for uid in uids:
            kill(uid, b"claude_", number=signal.SIGCONT)
    stack.watch.until("its worker is ended", lambda: stack.watch.pods.get(first.name) is None)
    assert json.loads(content(in_time(stack, gone.name, "::recall"))) == [], "it begins anew"
    kept.holds(mark)


def in_time(stack: Stack, conversation: str, prompt: str) -> httpx.Response:
    """The answer of a client that tries again when told to: the scheduler also has to find its API server again."""
    deadline = time.monotonic() + PATIENCE
    with stack.client(conversation) as client:
        while (answer := chat(client, prompt)).status_code == 503 and time.monotonic() < deadline:
            assert answer.headers["retry-after"]
    return answer
