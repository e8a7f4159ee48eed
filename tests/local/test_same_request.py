"""Which conversation, and which turn, a request is: by its history, by its key, and sent again by the router."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.clients.asked import Asked, calls
from local.harness import Json, Model, content, eventually, find_cli, streamed_text, unread
from local.server import Server, serving
from local.talk import CHAT, Talk, user

STOPS = "::say begun\n::sleep 30\n::say never"


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model, tmp_path_factory.mktemp("sessions"), POOL_SIZE="4", WARM_WORKERS="1") as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def asked(model: Model) -> Asked:
    return Asked(model)


# -- by history --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_history_goes_on_in_its_conversation(http: httpx.Client, stream: bool) -> None:
    client = Talk(http)
    client.say(f"::say one {stream}", stream=stream)
    client.say("::say two", stream=stream)
    assert client.recall() == [f"::say one {stream}", "::say two"]
    assert len(set(client.ids)) == 1
    assert client.how == "continued"


def test_an_edited_one_stays_there_and_is_forked(http: httpx.Client) -> None:
    client = Talk(http)
    for text in ("::say begin of the edited", "::say two", "::say three"):
        client.say(text)
    edited = client.until(2)
    assert edited.say("::say instead") == "instead"
    assert edited.ids[0] == client.ids[0]
    assert edited.how == "forked"
    assert edited.recall() == ["::say begin of the edited", "::say instead"]
    assert client.recall() == ["::say begin of the edited", "::say two", "::say three"]
    assert set(client.ids) == set(edited.ids)


def test_two_that_begin_with_the_same_words_never_share(http: httpx.Client, asked: Asked) -> None:
    one, other = Talk(http), Talk(http)
    for client in (one, other):
        client.say("::say the same words")
    assert one.ids != other.ids
    for name, client in (("one's", one), ("the other's", other)):
        client.say(f"::say {name}")
        client.say("::say more")
    # Where both could be meant, neither is: each goes on in a new one, which is told the same words.
    (told, *rest), (told_other, *rest_of_other) = one.recall(), other.recall()
    assert "user: ::say the same words\n\nassistant: the same words\n" in told
    assert told == told_other
    assert rest == ["::say one's", "::say more"]
    assert rest_of_other == ["::say the other's", "::say more"]
    assert not {*one.ids} & {*other.ids}
    assert [len({*c.ids[1:]}) for c in (one, other)] == [1, 1]
    assert len(asked.with_prompt("::say one's")) == 1


def test_a_foreign_history_begins_a_conversation_and_then_has_it(http: httpx.Client) -> None:
    client = Talk(http, told=[user("of another server"), {"role": "assistant", "content": "said there"}])
    client.say("::say here")
    assert client.how == "primed"
    client.say("::say again")
    assert client.how == "continued"
    assert client.ids[0] == client.ids[1]


def test_a_conversation_with_an_id_of_its_own_is_not_found_by_history(http: httpx.Client, server: Server) -> None:
    with server.client("chosen") as own:
        client = Talk(own)
        client.say("::say of the chosen")
    stranger = Talk(http, told=list(client.told))
    stranger.say("::say from outside")
    assert stranger.ids != ["chosen"]
    assert stranger.how == "primed"


def test_it_is_found_after_the_server_has_ended(model: Model, tmp_path: Path) -> None:
    with serving(model, tmp_path, WARM_WORKERS="0") as first, first.client() as http:
        client = Talk(http)
        client.say("::say before the end")
        first.until_quiet()
    with serving(model, tmp_path, WARM_WORKERS="0") as second, second.client() as http:
        client.http = http
        assert client.recall() == ["::say before the end"]
    assert len(set(client.ids)) == 1
    assert client.how == "continued"


# -- by key ------------------------------------------------------------------------------------------------------------


def keyed(http: httpx.Client, key: str, text: str, **fields: Any) -> httpx.Response:
    body = {"model": "claude-code", "messages": [user(text)], **fields}
    return http.post(CHAT, json=body, headers={"Idempotency-Key": key})


def test_a_key_alone_finds_the_turn_again(http: httpx.Client, asked: Asked) -> None:
    first, again = (keyed(http, "key-a", "::say once") for _ in range(2))
    assert content(first) == content(again) == "once"
    assert first.headers["x-conversation-id"] == again.headers["x-conversation-id"]
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["x-claude-history"] == "replayed"
    streamed = keyed(http, "key-a", "::say once", stream=True)
    assert streamed_text(streamed.text) == "once"
    assert len(asked.with_prompt("::say once")) == 1
    other = keyed(http, "key-b", "::say once")
    assert other.headers["x-conversation-id"] != first.headers["x-conversation-id"]
    assert len(asked.with_prompt("::say once")) == 2
    goes_on = Talk(http, told=[user("::say once"), {"role": "assistant", "content": "once"}])
    goes_on.say("::say later")
    assert goes_on.ids[0] not in (first.headers["x-conversation-id"], other.headers["x-conversation-id"])


def test_at_once_and_after_the_client_left(http: httpx.Client, server: Server, asked: Asked) -> None:
    prompt = "::say begun\n::sleep 1\n::say ended"
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: keyed(http, "key-c", prompt), range(2)))
    assert [content(answer) for answer in answers] == ["begun\n\nended"] * 2
    assert len(asked.with_prompt(prompt)) == 1
    body = {"stream": True, "messages": [user(prompt)]}
    headers = {"Idempotency-Key": "key-d"}
    with server.client() as leaving, leaving.stream("POST", CHAT, json=body, headers=headers) as answer:
        next(line for line in answer.iter_lines() if "begun" in line)
    back = keyed(http, "key-d", prompt)
    assert content(back) == "begun\n\nended"
    assert back.headers["x-claude-history"] in ("attached", "replayed")
    assert len(asked.with_prompt(prompt)) == 2


def test_a_key_outlives_the_server(model: Model, tmp_path: Path) -> None:
    said: list[httpx.Response] = []
    for _ in range(2):
        with serving(model, tmp_path, WARM_WORKERS="0") as server, server.client() as http:
            said.append(keyed(http, "key-e", "::say remembered"))
            server.until_quiet()
    assert [content(answer) for answer in said] == ["remembered"] * 2
    assert said[1].headers["x-claude-history"] == "replayed"


# -- sent again by the router ------------------------------------------------------------------------------------------


def worker_of(server: Server) -> int:
    """The worker that has a CLI; there is only one."""
    cli = int(eventually(lambda: find_cli(server.process.pid)))
    return int(Path(f"/proc/{cli}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def alone(model: Model, tmp_path: Path) -> Iterator[Server]:
    with serving(model, tmp_path / "alone", POOL_SIZE="1", WARM_WORKERS="0") as running:
        yield running


def asking(server: Server, text: str, *, stream: bool = False, key: str = "") -> httpx.Response:
    with server.client("c", headers={"Idempotency-Key": key}) as client:
        return client.post(CHAT, json={"model": "claude-code", "messages": [user(text)], "stream": stream})


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_that_is_killed_as_a_request_arrives_costs_nothing(alone: Server, asked: Asked, stream: bool) -> None:
    assert content(asking(alone, "::say before")) == "before"
    worker = worker_of(alone)
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asking, alone, "::say served after all", stream=stream)
        eventually(lambda: unread(worker))
        os.kill(worker, signal.SIGKILL)
        said = streamed_text(answer.result().text) if stream else content(answer.result())
    assert said == "served after all"
    assert json.loads(content(asking(alone, "::recall"))) == ["::say before", "::say served after all"]
    assert len(asked.with_prompt("::say served after all")) == 1
    with alone.client() as client:
        assert 'claude_chat_resent_requests_total{reason="connection_lost"} 1' in client.get("/metrics").text


def test_calls_outlive_a_worker_that_is_killed(alone: Server) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    fields: Json = {"model": "claude-code-client", "tools": tools}
    with alone.client() as client:
        talk = Talk(client)
        (call,) = talk.call(f"{calls(('look', {}))}\n::results", **fields)
        # Answered once the CLI has written its memory down, which it does some 60 ms later.
        assert client.get(f"/conversations/{talk.ids[-1]}/messages").status_code == 200
        os.kill(worker_of(alone), signal.SIGKILL)
        assert json.loads(talk.give({call["id"]: "seen"}, **fields)) == ["seen"]
        assert talk.recall() == talk.prompts()[:1]
    assert len(set(talk.ids)) == 1


def test_what_may_have_run_is_not_run_again(alone: Server, asked: Asked) -> None:
    prompt = "::sleep 30\n::say never"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asking, alone, prompt, key="once")
        eventually(lambda: asked.with_prompt(prompt))
        os.kill(worker_of(alone), signal.SIGKILL)
        lost = answer.result()
    assert (lost.status_code, lost.json()["error"]["code"]) == (409, "turn_lost")
    assert lost.headers["x-should-retry"] == "false"
    again = asking(alone, prompt, key="once")
    assert again.json()["error"]["code"] == "turn_lost"
    assert len(asked.with_prompt(prompt)) == 1
    assert content(asking(alone, "::say goes on")) == "goes on"


def test_an_answer_that_was_whole_is_given_after_all(alone: Server, asked: Asked, tmp_path: Path) -> None:
    prompt = "::sleep 0.5\n::say whole-and-written"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asking, alone, prompt)
        eventually(lambda: asked.with_prompt(prompt))
        worker = worker_of(alone)
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: any(written(path) for path in (tmp_path / "alone").glob("**/projects/*/*.jsonl")))
        os.kill(worker, signal.SIGKILL)
        assert content(answer.result()) == "whole-and-written"
    assert len(asked.with_prompt(prompt)) == 1
    assert json.loads(content(asking(alone, "::recall"))) == [prompt]


def written(transcript: Path) -> bool:
    return any('"assistant"' in line and "whole-and-written" in line for line in transcript.read_text().splitlines())


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_a_lost_worker_is_told_in_each_apis_own_way(alone: Server, path: str) -> None:
    asks: Json = {"input": STOPS} if path == "/v1/responses" else {"messages": [user(STOPS)], "max_tokens": 10}
    body = {"model": "claude-code", "stream": True, **asks}
    with alone.client("c") as client, client.stream("POST", path, json=body) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if "begun" in line)
        os.kill(worker_of(alone), signal.SIGKILL)
        rest = [line for line in lines if line]
    kind, data = rest[-2:]
    told = json.loads(data.removeprefix("data: "))
    assert (kind, told["type"]) == ("event: error", "error")
    assert "was lost during the turn" in (told if path == "/v1/responses" else told["error"])["message"]
