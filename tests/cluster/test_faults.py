"""Faults while turns run: nothing is lost, mixed or run twice, and new work goes on.

What every test here ends with is `Told.holds`: the conversation answers, and its memory is what it was told, in order.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from claude_crds.names import session_name
from claude_crds.views import Pod
from claude_operator.faults import FAULT_LABEL, Point
from cluster.host import kill
from cluster.stack import RELEASE, Stack, installed, reasons
from local.harness import chat, content, events, streamed_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ENVIRONMENT = [
    {"name": "FAULT_POINTS", "value": "true"},
    {"name": "LEASE_MS", "value": "3000"},
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    given = f"--set-json=operator.extraEnv={json.dumps(ENVIRONMENT)}"
    with installed(given, pool__idleTimeout=0, pool__size=4, pool__queueTimeout="2m") as running:
        running.watch.until_warm()
        yield running


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    """Each test has the pool for itself."""
    yield
    stack.forget(*[s.spec.conversation_id for s in stack.watch.sessions.items()])
    stack.pool(size=4, warm=1, image=None, workspace={"storageClassName": None, "size": "64Mi"}, podTemplate=None)


@dataclass
class Told:
    """A conversation, and what it was told for certain."""

    stack: Stack
    name: str
    prompts: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)

    def say(self, text: str, **options: Any) -> str:
        """A turn that must be answered."""
        prompt = f"::say {text}"
        with self.stack.client(self.name, **options) as client:
            said = content(chat(client, prompt))
        self.prompts.append(prompt)
        assert said == text
        return said

    def holds(self, mark: int = 0) -> None:
        """It remembers all it was told, in order, and no prompt reached the model as a turn of its own twice."""
        with self.stack.client(self.name) as client:
            remembered = json.loads(content(chat(client, "::recall")))
        assert [p for p in remembered if p not in self.maybe] == self.prompts
        asked = Counter(e["prompts"][-1] for e in self.stack.log(mark) if e["messages"][-1]["role"] == "user")
        assert all(asked[prompt] == 1 for prompt in self.prompts if prompt in asked), asked


@dataclass
class Streaming:
    """A turn that runs in a thread; `begun` once its first words have come."""

    begun: threading.Event
    result: Future[str]

    def text(self) -> str:
        return self.result.result(120)


def stream(told: Told, words: str, seconds: float, **options: Any) -> Streaming:
    """Begin a turn that says something, waits, and says it has ended."""
    assert " " not in words, "text is streamed word by word"
    prompt = f"::say {words}\n::sleep {seconds}\n::say end of {words}"
    told.maybe.append(prompt)
    begun = threading.Event()

    def run() -> str:
        text = ""
        body = {"stream": True, "messages": [{"role": "user", "content": prompt}]}
        with (
            told.stack.client(told.name, **options) as client,
            suppress(httpx.HTTPError),
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            for line in answer.iter_lines():
                text += line + "\n"
                if words in line:
                    begun.set()
        begun.set()
        return text

    pool = ThreadPoolExecutor(1)
    result = pool.submit(run)
    pool.shutdown(wait=False)
    assert begun.wait(120)
    return Streaming(begun, result)


def ended_well(text: str) -> bool:
    return text.rstrip().endswith("[DONE]") and "error" not in (events(text) or [{"error": 1}])[-1]


def worker(stack: Stack, conversation: str) -> Pod:
    """The pod of a conversation that is Ready."""
    session = stack.watch.until_phase(conversation, "Ready")
    found = stack.watch.pods.get(session.status.pod_name)
    assert found is not None
    return found


# -- the operator ------------------------------------------------------------------------------------------------------

CLAIMING: tuple[Point, ...] = ("claim-before-patch", "claim-after-patch", "ready-before-status", "ready-after-status")
RESUMING: tuple[Point, ...] = ("start-before-status", "start-before-pod", "start-after-pod")
SUSPENDING: tuple[Point, ...] = ("suspend-before-drain", "suspend-after-drain", "suspend-after-delete")


def fresh_operators(stack: Stack) -> None:
    """Operators without a crash to their names: the kubelet makes those that crash again and again wait."""
    cluster = stack.cluster
    cluster.kubectl("rollout", "restart", f"deployment/{RELEASE}-operator")
    cluster.kubectl("rollout", "status", f"deployment/{RELEASE}-operator", "--timeout=90s")


def crashes(stack: Stack) -> int:
    statuses = [p["status"].get("containerStatuses", []) for p in stack.cluster.pods("operator")]
    return sum(status["restartCount"] for group in statuses for status in group)


def die_at(stack: Stack, name: str, point: Point) -> None:
    stack.cluster.kubectl("label", "claudesession", name, f"{FAULT_LABEL}={point}", "--overwrite")


def until_dead(stack: Stack, name: str, before: int) -> None:
    """An operator has died at the point; the next one is let through."""
    stack.watch.until("an operator dies", lambda: crashes(stack) > before)
    stack.cluster.kubectl("label", "claudesession", name, f"{FAULT_LABEL}-")


def suspended(stack: Stack, conversation: str) -> str:
    """A session that is there before anyone asks; returns its name."""
    name = session_name("default", conversation)
    body = {
        "apiVersion": "claude-code-api.io/v1alpha1", "kind": "ClaudeSession", "metadata": {"name": name},
        "spec": {"conversationID": conversation, "desiredState": "Suspended"},
    }  # fmt: skip
    stack.cluster.kubectl("apply", "--filename=-", given=json.dumps(body))
    stack.watch.until_phase(conversation, "Suspended")
    return name


@pytest.mark.parametrize("point", CLAIMING)
def test_operator_killed_mid_claim(stack: Stack, point: Point) -> None:
    fresh_operators(stack)
    stack.watch.until_warm()
    told, mark, before = Told(stack, f"killed-{point}"), stack.mark(), crashes(stack)
    name = suspended(stack, told.name)
    asked_while_it_dies(stack, told, name, point, before)
    told.holds(mark)


@pytest.mark.parametrize("point", RESUMING)
def test_operator_killed_mid_resume(stack: Stack, point: Point) -> None:
    fresh_operators(stack)
    told, mark, before = Told(stack, f"killed-{point}"), stack.mark(), crashes(stack)
    told.say("first")
    name = session_name("default", told.name)
    stack.cluster.patch("claudesession", name, {"spec": {"desiredState": "Suspended"}})
    stack.watch.until_phase(told.name, "Suspended")
    asked_while_it_dies(stack, told, name, point, before)
    told.holds(mark)


@pytest.mark.parametrize("point", SUSPENDING)
def test_operator_killed_mid_suspend(stack: Stack, point: Point) -> None:
    fresh_operators(stack)
    told, mark, before = Told(stack, f"killed-{point}"), stack.mark(), crashes(stack)
    told.say("first")
    name = session_name("default", told.name)
    die_at(stack, name, point)
    stack.cluster.patch("claudesession", name, {"spec": {"desiredState": "Suspended"}})
    until_dead(stack, name, before)
    told.say("asked while it ended")
    one_worker(stack, name)
    told.holds(mark)


def asked_while_it_dies(stack: Stack, told: Told, name: str, point: Point, before: int) -> None:
    """A request makes the operator die at the point; the next one serves it, with one worker."""
    die_at(stack, name, point)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(told.say, "served after all")
        until_dead(stack, name, before)
        asking.result(120)
    one_worker(stack, name)


def one_worker(stack: Stack, name: str) -> None:
    label = "claude-code-api.io/session"
    mine = [p for p in stack.watch.pods.items() if p.metadata.labels.get(label) == name and not p.leaving]
    assert len(mine) == 1
    assert stack.watch.most_pods <= 4


def test_the_leader_is_lost(stack: Stack) -> None:
    """Its pod is deleted while conversations run: they go on, and new ones are served by the next leader."""
    told, mark = Told(stack, "under-way"), stack.mark()
    told.say("first")
    running = stream(told, "a-long-turn", 6)
    holder = stack.cluster.get("lease", "claude-operator")["spec"]["holderIdentity"]
    stack.cluster.kubectl("delete", "pod", holder, "--wait=false")
    new = Told(stack, "new-work")
    new.say("served by the next leader")
    assert ended_well(running.text())
    assert stack.cluster.get("lease", "claude-operator")["spec"]["holderIdentity"] != holder
    told.holds(mark)
    new.holds(mark)


# -- routers -----------------------------------------------------------------------------------------------------------


def test_a_router_is_killed_in_the_middle_of_a_stream(stack: Stack) -> None:
    told, mark = Told(stack, "through-two-routers"), stack.mark()
    told.say("first")
    pods = [pod["metadata"] for pod in stack.cluster.pods("router")]
    names = [pod["name"] for pod in pods]
    with stack.cluster.forwarded(names[0], 3000) as one, stack.cluster.forwarded(names[1], 3000) as other:
        running = stream(told, "cut-off", 20, base_url=one)
        assert kill(pods[0]["uid"], b"claude_router") == 1
        text = running.text()
        assert "[DONE]" not in text, "never a false finish"
        assert "end of cut-off" not in streamed_text(text)
        told.say("through the other", base_url=other)
    stack.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{names[0]}", "--timeout=90s")
    told.holds(mark)


def test_a_router_that_is_told_to_end_lets_its_streams_end(stack: Stack) -> None:
    told, mark = Told(stack, "through-a-leaving-router"), stack.mark()
    told.say("first")
    stack.cluster.kubectl("rollout", "status", f"deployment/{RELEASE}-router", "--timeout=90s")
    name = stack.cluster.pods("router")[0]["metadata"]["name"]
    with stack.cluster.forwarded(name, 3000) as one:
        running = stream(told, "to-its-end", 8, base_url=one)
        stack.cluster.kubectl("delete", "pod", name, "--wait=false")
        Told(stack, "by-another-router").say("meanwhile")
        assert ended_well(running.text())
    told.holds(mark)


# -- workers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [b"claude_worker", b"claude\0-p"])
def test_a_worker_process_is_killed(stack: Stack, victim: bytes) -> None:
    """The shim, as an OOM killer would (its container is started again), or the CLI under it."""
    told, mark = Told(stack, f"killed-{len(victim)}"), stack.mark()
    told.say("first")
    running = stream(told, "cut-short", 20)
    assert kill(worker(stack, told.name).metadata.uid, victim) > 0
    assert not ended_well(running.text())
    told.say("after it")
    told.holds(mark)
    if victim == b"claude_worker":
        reasons(stack, session_name("default", told.name), ["Restarted"])
        assert stack.watch.until_phase(told.name, "Ready").status.restarts == 1


def test_a_command_that_uses_up_the_memory(stack: Stack) -> None:
    """The kernel kills within the worker's own limit; whatever it takes, the conversation goes on."""
    limits = {"requests": {"memory": "400Mi"}, "limits": {"memory": "600Mi"}}
    stack.pool(podTemplate={"spec": {"containers": [{"name": "worker", "resources": limits}]}}, warm=0)
    told, mark = Told(stack, "hungry"), stack.mark()
    told.say("first")
    prompt = "::bash python3 -c 'x = bytearray(900 << 20)'\n::say survived"
    told.maybe.append(prompt)
    with stack.client(told.name) as client:
        chat(client, prompt)
    told.say("after it")
    told.holds(mark)


def test_a_pod_is_deleted_by_hand(stack: Stack) -> None:
    told, mark = Told(stack, "deleted-pod"), stack.mark()
    told.say("first")
    pod = worker(stack, told.name)
    running = stream(told, "cut-short", 30)
    stack.cluster.kubectl("delete", "pod", pod.name, "--wait=false", "--grace-period=1")
    assert not ended_well(running.text())
    told.say("after it")
    assert worker(stack, told.name).name != pod.name
    told.holds(mark)


def test_evictions_race_requests(stack: Stack) -> None:
    """Two conversations that want the only place, in turn and at once, three dozen times."""
    stack.pool(size=1, warm=0)
    both, mark = [Told(stack, "left"), Told(stack, "right")], stack.mark()

    def talk(told: Told) -> None:
        for number in range(9):
            told.say(f"{told.name} {number}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(talk, both))
    for told in both:
        told.holds(mark)
    asked = Counter(e["prompts"][-1] for e in stack.log(mark))
    assert all(asked[prompt] == 1 for told in both for prompt in told.prompts)
