"""Conversations across pods and routers: histories, forks, parked calls and retries on the installed chart."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from claude_crds.names import session_name
from cluster.host import kill, processes
from cluster.stack import Stack, installed
from local.clients.asked import calls
from local.harness import Json, content, eventually, streamed_text, unread
from local.talk import CHAT, Talk, user

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PARKED_SECONDS = 3

_SERVER = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answers = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "keeper", "version": "1"}},
        "tools/list": {"tools": [{"name": "reveal", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": os.environ["SECRET"]}]},
    }
    answer = {"jsonrpc": "2.0", "id": asked["id"], "result": answers.get(asked["method"], {})}
    print(json.dumps(answer), flush=True)
"""
CONFIGURATION = {
    "mcpServers": {"keeper": {"command": "python3", "args": ["-c", _SERVER], "env": {"SECRET": "${KEEPER_TOKEN}"}}},
    "memory": "Remember the lighthouse.",
    "settings": {"env": {"FROM_SETTINGS": "set-by-the-pool"}},
    "commands": {"greet": "::say greetings to $ARGUMENTS"},
    "slashCommands": True,
}
SECRET = {"name": "KEEPER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "anthropic", "key": "ANTHROPIC_API_KEY"}}}
TEMPLATE = {"spec": {"containers": [{"name": "worker", "env": [SECRET]}]}}

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
WITH_TOOLS = {"model": "claude-code-client", "tools": TOOLS}
CALLS = calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"}))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    given = [
        f"--set-json=pool.claude={json.dumps(CONFIGURATION)}",
        f"--set-json=pool.podTemplate={json.dumps(TEMPLATE)}",
    ]
    chosen = {"pool__idleTimeout": 0, "pool__parkTimeout": f"{PARKED_SECONDS}s", "pool__queueTimeout": "2m"}
    with installed(*given, **chosen) as running:
        running.watch.until_warm()
        yield running


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    yield
    stack.forget(*[s.spec.conversation_id for s in stack.watch.sessions.items()])


def suspend(stack: Stack, name: str) -> str:
    """As a person does it; returns the pod that is gone."""
    session = stack.watch.until_phase(name, "Ready")
    stack.cluster.patch("claudesession", session.name, {"spec": {"desiredState": "Suspended"}})
    stack.watch.until_phase(name, "Suspended")
    return session.status.pod_name


def asked_with(stack: Stack, mark: int, prompt: str) -> list[Json]:
    return [entry for entry in stack.log(mark) if entry["prompts"][-1:] == [prompt]]


def made(answer: httpx.Response, status: int = 201) -> Json:
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


# -- the pool's configuration ------------------------------------------------------------------------------------------


def test_what_a_pool_configures_reaches_claude(stack: Stack, http: httpx.Client) -> None:
    talk = Talk(http, "configured")
    for _ in range(2):
        assert "sk-scripted" in talk.say("::tool mcp__keeper__reveal {}\n::results")
        shell = talk.say("::bash cat $CLAUDE_CONFIG_DIR/CLAUDE.md; echo $FROM_SETTINGS\n::results")
        assert "Remember the lighthouse." in shell
        assert "set-by-the-pool" in shell
        assert talk.say("/greet the keeper") == "greetings to the keeper"
        suspend(stack, "configured")


# -- parked turns ------------------------------------------------------------------------------------------------------


def test_parked_calls_survive_a_suspension(stack: Stack, http: httpx.Client) -> None:
    talk, mark = Talk(http, "parked"), stack.mark()
    talk.say("::say before", **WITH_TOOLS)
    found = talk.call(f"{CALLS}\n::results", **WITH_TOOLS)
    pod = suspend(stack, "parked")  # which waits until the turn may wait no longer
    results = {call["id"]: f"{number} °C" for number, call in enumerate(found)}
    assert json.loads(talk.give(dict(reversed(results.items())), **WITH_TOOLS)) == ["0 °C", "1 °C"]
    assert talk.how == "continued"
    assert stack.watch.until_phase("parked", "Ready").status.pod_name != pod
    assert talk.say("::say after", **WITH_TOOLS) == "after"
    assert talk.how == "continued"
    assert len(asked_with(stack, mark, talk.prompts()[1])) == 2, "once for the calls, once with their results"
    last = stack.log(mark)[-1]["messages"]
    told = [[kind, *rest] for message in last for kind, *rest in message["told"] if kind != "text"]
    ids = [call["id"] for call in found]
    assert [(kind, rest[0]) for kind, *rest in told] == [("call", i) for i in ids] + [("result", i) for i in ids]


def test_parked_calls_keep_their_worker_for_a_while_and_survive_an_eviction(stack: Stack, http: httpx.Client) -> None:
    stack.pool(size=1, warm=0)
    try:
        talk = Talk(http, "parked-alone")
        found = talk.call(f"{CALLS}\n::results", **WITH_TOOLS)
        began = time.monotonic()
        assert Talk(http, "wants-its-place").say("::say meanwhile") == "meanwhile"
        assert time.monotonic() - began > PARKED_SECONDS - 1, "a place that nobody gives up is waited for"
        assert stack.watch.phase("parked-alone") == "Suspended"
        answer = talk.give({call["id"]: "late" for call in found}, **WITH_TOOLS)
        assert json.loads(answer) == ["late", "late"]
        assert talk.how == "continued"
    finally:
        stack.pool(size=3, warm=1)


# -- branches and forks ------------------------------------------------------------------------------------------------


def test_edits_branches_and_regenerated_answers_after_a_resume(stack: Stack, http: httpx.Client) -> None:
    trunk, mark = Talk(http, "branches"), stack.mark()
    for text in ("::say one", "::say two", "::say three"):
        trunk.say(text)
    suspend(stack, "branches")
    branch = trunk.until(2)
    assert branch.say("::say instead") == "instead"
    assert branch.how == "forked"
    suspend(stack, "branches")
    assert trunk.recall() == ["::say one", "::say two", "::say three"]
    assert trunk.how == "forked"
    suspend(stack, "branches")
    again = trunk.until(4)
    assert again.say("::say three") == "three", "generated again"
    assert again.how == "forked"
    assert len(asked_with(stack, mark, "::say three")) == 2
    assert branch.recall() == ["::say one", "::say instead"]
    assert branch.say("::say more of it") == "more of it"
    assert branch.how == "continued"


def test_a_fork_copies_memory_and_volume(stack: Stack, http: httpx.Client) -> None:
    source = Talk(http, "source")
    source.say("::write shared.txt before\n::say one")
    source.say("::say two")
    suspend(stack, "source")
    forked = made(http.post("/conversations/source/fork", json={"id": "copy", "at": 3}))
    assert (forked["id"], forked["turns"]) == ("copy", 0)
    copy = Talk(http, "copy", told=source.told[:2])
    assert copy.say("::bash cat shared.txt > seen.txt\n::write shared.txt changed\n::say other") == "other"
    assert copy.how == "continued"
    assert copy.recall() == copy.prompts()[:-1]
    assert source.recall() == ["::write shared.txt before\n::say one", "::say two"]
    assert http.get("/conversations/source/files/shared.txt").text == "before"
    assert http.get("/conversations/copy/files/shared.txt").text == "changed"
    assert http.get("/conversations/copy/files/seen.txt").text == "before"
    volumes = {stack.watch.until_phase(name, "Ready").status.volume_claim_name for name in ("source", "copy")}
    assert len(volumes) == 2
    suspend(stack, "copy")
    whole = made(http.post("/conversations/copy/fork"))["id"]
    assert Talk(http, whole, told=list(copy.told)).recall() == copy.prompts()
    assert http.post("/conversations/source/fork", json={"id": "copy"}).status_code == 409
    messages = made(http.get(f"/conversations/{whole}/messages"), 200)["data"]
    assert [m["content"] for m in messages if m["role"] == "user"] == [*copy.prompts(), "::recall"]
    stack.forget(whole)


# -- sent again --------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_as_a_request_arrives_costs_nothing(stack: Stack, http: httpx.Client) -> None:
    talk, mark = Talk(http, "killed"), stack.mark()
    talk.say("::say before")
    pod = stack.watch.pods.get(stack.watch.until_phase("killed", "Ready").status.pod_name)
    assert pod is not None
    victim = (pod.metadata.uid, b"claude_worker")
    assert kill(*victim, number=signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(talk.say, "::say served after all")
        eventually(lambda: any(unread(pid) for pid in processes(*victim)))
        kill(*victim)
        assert asking.result(120) == "served after all"
    assert talk.recall() == ["::say before", "::say served after all"]
    assert len(asked_with(stack, mark, "::say served after all")) == 1


# -- two routers -------------------------------------------------------------------------------------------------------


@contextmanager
def routers(stack: Stack) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of each."""
    names = [pod["metadata"]["name"] for pod in stack.cluster.pods("router")]
    assert len(names) == 2
    with (
        stack.cluster.forwarded(names[0], 3000) as one,
        stack.cluster.forwarded(names[1], 3000) as other,
        stack.client(base_url=one) as first,
        stack.client(base_url=other) as second,
    ):
        yield first, second


def until_told(stack: Stack, talk: Talk, answers: int) -> None:
    """The end of each answer is noted on the session, where every router sees it."""
    name = session_name("default", talk.ids[-1])
    stack.watch.until("tips", lambda: (s := stack.watch.sessions.get(name)) and len(s.tips.split()) == answers)


def test_a_history_leads_through_any_router_to_its_conversation(stack: Stack) -> None:
    with routers(stack) as (one, other):
        talk = Talk(one)
        for number, http in enumerate((one, other, one), start=1):
            talk.http = http
            talk.say(f"::say answer {number}", stream=number == 2)
            until_told(stack, talk, number)
        talk.http = other
        assert talk.recall() == ["::say answer 1", "::say answer 2", "::say answer 3"]
        assert talk.how == "continued"
        assert len(set(talk.ids)) == 1


def test_two_clients_with_the_same_words_at_two_routers_never_share(stack: Stack) -> None:
    with routers(stack) as clients:
        talks = [Talk(http) for http in clients]
        for talk in talks:
            talk.say("::say the same words")
        for talk in talks:
            until_told(stack, talk, 1)
        for number, talk in enumerate(talks):
            talk.say(f"::say of {number}")
        assert [talk.recall()[1:] for talk in talks] == [["::say of 0"], ["::say of 1"]]
        assert not {*talks[0].ids} & {*talks[1].ids}


def test_a_retry_through_another_router_attaches_to_the_running_turn(stack: Stack) -> None:
    prompt, mark = "::say begun\n::sleep 4\n::say ended", stack.mark()
    body = {"model": "claude-code", "messages": [user(prompt)], "stream": True}
    headers = {"X-Conversation-ID": "retried"}
    with routers(stack) as (one, other), one.stream("POST", CHAT, json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        seen = next(line for line in lines if "begun" in line)
        retry = other.post(CHAT, json=body, headers={**headers, "X-Stainless-Retry-Count": "1"})
        assert retry.headers["x-claude-history"] == "attached"
        assert streamed_text(retry.text) == "begun\n\nended"
        assert streamed_text("\n".join([seen, *lines])) == "begun\n\nended"
        assert len(asked_with(stack, mark, prompt)) == 1


def test_one_key_without_any_id_at_two_routers_is_one_turn(stack: Stack) -> None:
    prompt, mark = "::say once\n::sleep 1\n::say only", stack.mark()
    body = {"model": "claude-code", "messages": [user(prompt)]}
    with routers(stack) as clients, ThreadPoolExecutor(2) as pool:

        def ask(http: httpx.Client) -> httpx.Response:
            return http.post(CHAT, json=body, headers={"Idempotency-Key": "one-key"})

        answers = list(pool.map(ask, clients))
    assert [content(answer) for answer in answers] == ["once\n\nonly"] * 2
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.headers["x-conversation-id"] for answer in answers}) == 1
    assert len(asked_with(stack, mark, prompt)) == 1
