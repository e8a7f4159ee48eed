"""The same request again, and clients that leave: no turn runs twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.harness import Model, Running, chat, cli_pid, eventually
from local.talker import Talker, assistant, said, user
from local.test_history import Launch, exact

RETRY = {"x-stainless-retry-count": "1"}
KEY = {"idempotency-key": "once"}
SLOW = "::say first words\n::sleep 2\n::say last words"


@pytest.fixture
def worker(launch: Launch) -> Running:
    return launch()


@pytest.fixture
def client(worker: Running) -> Iterator[httpx.Client]:
    with worker.client() as found:
        yield found


def until_idle(client: httpx.Client) -> None:
    eventually(lambda: not client.get("/status").json()["busy"])


def kill(worker: Running) -> None:
    """SIGKILL, and the end of its CLI."""
    cli = cli_pid(worker.process.pid)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    eventually(lambda: not Path(f"/proc/{cli}").exists())
    worker.stop()


# -- the same request again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [RETRY, KEY, {}], ids=["retry", "key", "neither"])
def test_a_retry_of_a_running_turn_gets_the_same_bytes_from_its_start(
    client: httpx.Client, model: Model, headers: dict[str, str]
) -> None:
    talker = Talker(client)
    talker.say("::say before")
    mark = model.mark()
    with (
        talker.reading(user(SLOW), until="first", headers=headers) as one,
        talker.reading(user(SLOW), until="first", headers=headers) as two,
    ):
        assert two.response.headers["x-claude-history"] == "attached"
        assert one.rest() == two.rest()
    assert two.said == "first words\n\nlast words"
    assert len(model.log(after=mark)) == 1
    until_idle(client)
    talker.messages += [user(SLOW), assistant(two.said)]
    assert talker.say("::say after") == "continued"
    exact(model, talker)


def test_a_retry_of_a_finished_turn_gets_its_answer_again(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    first = talker.send(user("::think hm\n::say one"), headers=KEY)
    mark = model.mark()
    for headers in (RETRY, KEY):
        again = talker.branch(0).post(user("::think hm\n::say one"), headers=headers)
        assert again.json() == first.json()
        assert again.headers["x-claude-history"] == "replayed"
    with talker.branch(0).reading(user("::think hm\n::say one"), until="[DONE]", headers=KEY) as stream:
        assert stream.said == "one"
    assert model.log(after=mark) == []
    assert talker.say("::say two") == "continued"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_retry_reaches_the_next_worker_on_the_volume(launch: Launch, model: Model, number: int) -> None:
    worker = launch()
    with worker.client() as client:
        talker = Talker(client)
        first = said(talker.send(user("::say one\n::bash true\n::say two"), headers=KEY))
        until_idle(client)
    if number == signal.SIGKILL:
        kill(worker)
    worker.stop()
    mark = model.mark()
    again = launch()
    with again.client() as client:
        answer = Talker(client).post(user("::say one\n::bash true\n::say two"), headers=KEY)
        assert (said(answer), answer.headers["x-claude-history"]) == (first, "replayed")
        assert model.log(after=mark) == []
        talker.client = client
        assert talker.say("::say three") == "continued"
        exact(model, talker)


def test_a_turn_that_failed_runs_again_when_it_is_sent_again(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say one")
    failing = "::status 403 1\n::say better now"
    assert talker.post(user(failing), headers=KEY).status_code == 403
    assert talker.say(failing, headers=KEY | RETRY) == "forked"
    exact(model, talker)
    assert talker.last["content"] == "better now"


def test_two_requests_with_one_key_at_the_same_time_are_one_turn(client: httpx.Client, model: Model) -> None:
    answers: list[str] = []
    mark = model.mark()

    def ask() -> None:
        answers.append(said(chat(client, "::sleep 0.5\n::say once", headers=KEY)))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["once"] * 3
    assert len(model.log(after=mark)) == 1


# -- clients that leave --------------------------------------------------------------------------------------------


def test_a_client_that_comes_back_in_time_finds_its_turn(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    mark = model.mark()
    with talker.reading(user(SLOW), until="first"):
        pass
    answer = talker.send(user(SLOW))
    assert (said(answer), answer.headers["x-claude-history"]) == ("first words\n\nlast words", "attached")
    assert len(model.log(after=mark)) == 1
    assert talker.say("::say after") == "continued"
    exact(model, talker)


def test_a_client_that_comes_back_after_the_end_gets_the_answer(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    mark = model.mark()
    with talker.reading(user("::say first\n::sleep 0.5\n::say last"), until="first"):
        pass
    until_idle(client)
    answer = talker.send(user("::say first\n::sleep 0.5\n::say last"))
    assert (said(answer), answer.headers["x-claude-history"]) == ("first\n\nlast", "replayed")
    assert len(model.log(after=mark)) == 1


def test_a_client_that_is_gone_for_good_is_not_waited_for(launch: Launch, model: Model) -> None:
    worker = launch(DETACH_MS="100")
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        with talker.reading(user("::say begun\n::sleep 30"), until="begun"):
            pass
        until_idle(client)
        talker.messages += [user("::say begun\n::sleep 30"), assistant("begun")]
        assert talker.say("::say two") == "continued"
        exact(model, talker)


def test_a_new_message_does_not_wait_for_a_turn_that_nobody_reads(launch: Launch, model: Model) -> None:
    worker = launch(DETACH_MS="60000")
    with worker.client() as client:
        talker = Talker(client)
        with talker.reading(user("::say begun\n::sleep 30"), until="begun"):
            pass
        talker.messages += [user("::say begun\n::sleep 30"), assistant("begun")]
        assert talker.say("::say two") == "continued"
        exact(model, talker)


def test_a_new_message_waits_for_a_turn_that_somebody_reads(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say one")
    with talker.reading(user(SLOW), until="first") as stream:
        other = talker.branch(2)
        assert other.say("::say beside it") == "forked"
        exact(model, other)
        assert stream.rest().count("[DONE]") == 1
    assert stream.said == "first words\n\nlast words"
