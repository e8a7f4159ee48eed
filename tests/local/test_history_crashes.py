"""Workers that die in a turn and between two writes: what is lost is known as lost, and nothing runs twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from local.harness import Json, Model, chat, content, eventually
from local.talker import Talker, assistant, calls, last_told, refused, result, said, texts, tools, user
from local.test_history import FORMAT, Launch, exact
from local.test_history_retries import KEY, RETRY, kill, until_idle

LONG = "::say first words\n::sleep 5\n::say last words"
CRASHES = ["before the end", "a torn line", "before the state"]


def until_noted(volume: Path) -> None:
    """Until the end of the last turn is on the volume; a parked worker is never idle."""

    def noted() -> bool:
        ledger = volume / "ledger"
        lines = ledger.read_bytes().splitlines() if ledger.exists() else []
        return not lines or lines[-1].startswith(b'["e"')

    eventually(noted)


def test_a_turn_whose_worker_was_killed_is_lost_for_retries_and_runs_when_sent_anew(
    launch: Launch, model: Model
) -> None:
    worker = launch()
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        with talker.reading(user(LONG), until="first", headers=KEY):
            kill(worker)
    mark = model.mark()
    again = launch()
    with again.client() as client:
        talker.client = client
        for headers in (RETRY, KEY):
            assert refused(talker.post(user(LONG), headers=headers)) == (409, "turn_lost")
        assert model.log(after=mark) == []
        assert talker.say(LONG) == "forked"
        exact(model, talker)
        assert talker.say("::say two") == "continued"
        exact(model, talker)


def test_what_a_killed_workers_turn_had_said_is_primed(launch: Launch, model: Model) -> None:
    """The client goes on from what it saw; nobody knows where in the memory that is."""
    worker = launch()
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        with talker.reading(user(LONG), until="first"):
            kill(worker)
    again = launch()
    with again.client() as client:
        talker.client = client
        talker.messages += [user(LONG), assistant("first words")]
        assert talker.say("::say two") == "primed"
        first, context, last = texts(last_told(model))
        assert (first, last) == ("::say one", "::say two")
        assert re.search("user: ::say first words.*assistant: first words", context)
    again.stop()


@pytest.mark.parametrize("where", CRASHES)
def test_a_worker_that_died_between_two_writes_knows_where_it_is(
    launch: Launch, model: Model, tmp_path: Path, where: str
) -> None:
    """The answer was complete, and its client has it."""
    worker = launch()
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        until_idle(client)
        state = (tmp_path / "state.json").read_bytes()
        talker.say("::say two\n::bash true\n::say three", headers=KEY)
        until_idle(client)
    kill(worker)
    as_if_it_died(tmp_path, state, where)
    mark = model.mark()
    again = launch()
    with again.client() as client:
        talker.client = client
        retried = talker.branch(2).post(user("::say two\n::bash true\n::say three"), headers=KEY)
        assert "".join(said(retried).split()) == "twothree"
        assert model.log(after=mark) == []
        other = talker.branch(2)
        assert other.say("::say instead") == "forked"
        exact(model, other)
        assert talker.say("::say four") == "forked"
        exact(model, talker)


@pytest.mark.parametrize("where", CRASHES)
def test_and_goes_on_there(launch: Launch, model: Model, tmp_path: Path, where: str) -> None:
    worker = launch()
    with worker.client() as client:
        content(chat(client, "::say one"))
        until_idle(client)
        state = (tmp_path / "state.json").read_bytes()
        content(chat(client, "::say two"))
        until_idle(client)
    kill(worker)
    as_if_it_died(tmp_path, state, where)
    again = launch()
    with again.client() as client:
        assert chat(client, "::say three").headers["x-claude-history"] == "continued"
        assert texts(last_told(model)) == ["::say one", "::say two", "::say three"]


@pytest.mark.parametrize("where", CRASHES)
def test_calls_and_what_came_of_their_results_survive_that(
    launch: Launch, model: Model, tmp_path: Path, where: str
) -> None:
    steps = [user("::say before"), user(f"::say calling\n{calls('a', 'b')}\n::say done"), None, user("::say on")]
    messages: list[Json] = []
    sent: list[Json] = []
    for number, prompt in enumerate(steps):
        worker = launch()
        mark = model.mark()
        with worker.client() as client:
            talker = Talker(client, model="claude-code-client", tools=tools("a", "b"))
            if number:
                # The worker before this one died when it had answered this.
                talker.messages = messages[: -len(sent) - 1]
                talker.send(*sent, headers={"idempotency-key": str(number - 1)})
                assert (talker.messages, model.log(after=mark)) == (messages, [])
            state = (tmp_path / "state.json").read_bytes() if number else b"{}"
            sent = [prompt] if prompt else [result(i, f"r of {i}") for i in talker.calls]
            talker.send(*sent, headers={"idempotency-key": str(number)})
            exact(model, talker)
            until_noted(tmp_path)
        messages = talker.messages
        kill(worker)
        if number:
            as_if_it_died(tmp_path, state, where)


@pytest.mark.parametrize("where", CRASHES)
def test_and_so_do_answers_that_follow_a_schema(launch: Launch, model: Model, tmp_path: Path, where: str) -> None:
    asked = '::say ignore this\n::tool StructuredOutput {"a": 7}'
    worker = launch()
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        until_idle(client)
        state = (tmp_path / "state.json").read_bytes()
        answer = said(talker.send(user(asked), response_format=FORMAT, headers=KEY))
        until_idle(client)
    kill(worker)
    as_if_it_died(tmp_path, state, where)
    with launch().client() as client:
        talker.client = client
        assert said(talker.branch(2).post(user(asked), response_format=FORMAT, headers=KEY)) == answer
        assert talker.say("::say on") in ("continued", "forked")
        assert texts(last_told(model)) == texts(talker.asked)


def as_if_it_died(volume: Path, state: bytes, where: str) -> None:
    """Leave the volume as a worker does that dies while it writes the end of its last turn."""
    (volume / "state.json").write_bytes(state)
    if where == "before the state":
        return
    ledger = volume / "ledger"
    lines = ledger.read_bytes().splitlines(keepends=True)
    begun = max(i for i, line in enumerate(lines) if line.startswith(b'["t"'))
    left = b"".join(lines[: begun + 1])
    ledger.write_bytes(left + (lines[begun + 1][:20] if where == "a torn line" else b""))
