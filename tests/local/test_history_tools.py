"""The client's tools against the real CLI: calls, results, parked turns, and what becomes of them."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest

from local.harness import Model, Running, cli_pid, eventually
from local.talker import PREFIX, Talker, assistant, calls, last_told, result, said, texts, told, tools, user

Launch = Callable[..., Running]
ASK = "::say let me see\n" + calls('a {"x": 1}', 'b {"x": 2}', "c") + "\n::results"
ABC = tools("a", "b", "c")
NOT_RUN = "The user went on without running this tool."


@pytest.fixture
def worker(launch: Launch) -> Running:
    return launch()


@pytest.fixture
def client(worker: Running) -> Iterator[httpx.Client]:
    with worker.client() as found:
        yield found


def talker_of(client: httpx.Client, model: str = "claude-code-client") -> Talker:
    return Talker(client, model=model, tools=ABC)


def exact(model: Model, talker: Talker) -> None:
    assert last_told(model) == talker.asked


def parked(talker: Talker) -> list[str]:
    """Ask for three calls; returns their ids."""
    talker.say(ASK)
    assert len(talker.calls) == 3
    return talker.calls


def until_idle(client: httpx.Client) -> None:
    eventually(lambda: not client.get("/status").json()["busy"])


def test_several_calls_of_one_message_are_answered_in_any_order(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    for order in itertools.islice(itertools.permutations(range(3)), 0, None, 2):
        mark = model.mark()
        ids = parked(talker)
        answer = talker.send(*(result(ids[i], f"result {i}") for i in order))
        assert said(answer) == '["result 0", "result 1", "result 2"]'
        assert answer.headers["x-claude-history"] == "continued"
        assert len(model.log(after=mark)) == 2
    assert [c["function"]["name"] for c in talker.messages[1]["tool_calls"]] == ["a", "b", "c"]
    assert talker.say("::say on") == "continued"
    assert sorted(last_told(model)) == sorted(talker.asked)


def test_calls_one_after_the_other(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    talker.say(f"{calls('a')}\n::say then\n{calls('b')}\n::results")
    for i in range(2):
        talker.send(result(talker.calls[0], f"r{i}"))
        exact(model, talker)
    assert talker.last["content"] == '["r0", "r1"]'
    assert talker.say("::say on") == "continued"
    exact(model, talker)


@pytest.mark.parametrize("end", ["drain", "kill"])
def test_a_parked_turn_outlives_its_worker(launch: Launch, model: Model, end: str) -> None:
    worker = launch()
    with worker.client() as client:
        talker = talker_of(client)
        talker.say("::say before")
        ids = parked(talker)
        mark = model.mark()
        eventually(lambda: client.get("/status").json()["turns"] == 2)
        if end == "drain":
            client.post("/drain", params={"force": "true"})
            worker.stop()
        else:
            cli = cli_pid(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGKILL)
            eventually(lambda: not os.path.exists(f"/proc/{cli}"))
            worker.stop()
    # A killed worker's CLI may still tell the model that the calls were interrupted, before it ends as well.
    mark = model.mark() if end == "kill" else mark
    with launch().client() as client:
        talker.client = client
        answer = talker.send(*(result(i, f"result of {i}") for i in ids))
        assert said(answer) == str([f"result of {i}" for i in ids]).replace("'", '"')
        assert answer.headers["x-claude-history"] in ("continued", "forked")
        assert len(model.log(after=mark)) == 1
        exact(model, talker)
        assert talker.say("::say on") == "continued"
        exact(model, talker)


def test_another_message_instead_of_results_cancels_the_parked_turn(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    ids = parked(talker)
    mark = model.mark()
    assert talker.say("::say never mind") == "continued"
    assert len(model.log(after=mark)) == 1
    told_now = last_told(model)
    assert [t for t in told_now if t[0] != "result"] == talker.asked
    assert [t for t in told_now if t[0] == "result"] == [("result", i, NOT_RUN) for i in ids]
    assert talker.say("::say on") == "continued"
    assert texts(last_told(model)) == texts(talker.asked)


def test_so_does_a_message_without_the_calls(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    talker.say("::say before")
    other = talker.branch(2)
    parked(talker)
    mark = model.mark()
    assert other.say("::say instead") == "forked"
    assert len(model.log(after=mark)) == 1
    exact(model, other)
    ids = talker.calls
    assert talker.send(*(result(i, "late") for i in ids)).headers["x-claude-history"] == "forked"
    exact(model, talker)


def test_results_and_a_message_together(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    ids = parked(talker)
    mark = model.mark()
    results = [result(i, "aborted by the user") for i in ids]
    answer = talker.send(*results, user("::say something else"))
    assert (said(answer), len(model.log(after=mark))) == ("something else", 1)
    exact(model, talker)
    assert talker.say("::say on") == "continued"
    exact(model, talker)


@pytest.mark.parametrize("given", ["results", "message"])
def test_a_list_of_tools_may_change(client: httpx.Client, model: Model, given: str) -> None:
    talker = talker_of(client)
    if given == "results":
        ids = parked(talker)
        talker.send(*(result(i, "r") for i in ids), tools=tools("a", "d"))
    else:
        talker.say("::say x")
        assert talker.say("::say y", tools=tools("a", "d")) == "continued"
    entry = model.log()[-1]
    assert sorted(entry["tools"]) == [PREFIX + "a", PREFIX + "d"]
    exact(model, talker)
    talker.say("::say z", tools=list(reversed(ABC)))
    exact(model, talker)


def test_both_kinds_of_tools(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client, "claude-code-tools")
    talker.say(f"::bash echo own\n::say between\n{calls('a')}\n::bash echo more\n::results")
    assert talker.last["content"] == "between"
    assert {"Bash", PREFIX + "a"} <= set(model.log()[-1]["tools"])
    answer = talker.send(result(talker.calls[0], "from the client"))
    assert said(answer) == '["own", "from the client", "more"]'
    assert talker.say("::say on") == "continued"
    exact(model, talker)


def test_its_own_tools_only(client: httpx.Client, model: Model) -> None:
    answer = talker_of(client, "claude-code").send(user("::say x"))
    assert "tools" in answer.headers["x-claude-ignored"].split(", ")
    assert not [t for t in model.log()[-1]["tools"] if t.startswith(PREFIX)]


def test_a_client_takes_turns_between_models(client: httpx.Client, model: Model) -> None:
    """Each has other tools, and the memory is the same."""
    talker = talker_of(client)
    for name in ("claude-code-client", "claude-code", "claude-code-tools", "claude-code-client"):
        assert talker.say(f"::say with {name}", model=name) == "continued"
        exact(model, talker)


def test_a_parked_turn_is_work_until_its_timeout(launch: Launch, model: Model) -> None:
    worker = launch(PARK_TIMEOUT_MS="1500")
    with worker.client() as client:
        talker = talker_of(client)
        ids = parked(talker)
        assert client.get("/status").json()["busy"] is True
        until_idle(client)
        assert talker.send(*(result(i, "late") for i in ids)).headers["x-claude-history"] == "continued"
        exact(model, talker)


def test_ids_that_do_not_fit_are_refused(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    ids = parked(talker)
    mark = model.mark()
    good = [result(i, "r") for i in ids]
    for given in ([*good[:2], result("toolu_other", "r")], good[:2], [*good, result("toolu_other", "r")]):
        assert talker.post(*given).status_code == 400
    assert model.log(after=mark) == []
    assert said(talker.send(*good)) == '["r", "r", "r"]'
    exact(model, talker)


def test_a_retry_of_a_call_gets_it_again_and_results_are_taken_once(client: httpx.Client, model: Model) -> None:
    retry = {"x-stainless-retry-count": "1"}
    talker = talker_of(client)
    ids = parked(talker)
    mark = model.mark()
    again = talker.branch(0)
    assert again.send(user(ASK), headers=retry).headers["x-claude-history"] == "replayed"
    assert again.calls == ids
    results = [result(i, "r") for i in ids]
    first = said(talker.send(*results))
    assert said(again.send(*results, headers=retry)) == first
    assert len(model.log(after=mark)) == 1


def test_a_foreign_history_with_calls_is_told_as_prose(client: httpx.Client, model: Model) -> None:
    talker = talker_of(client)
    call = {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    talker.messages = [user("do it"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert talker.send(result("call_1", "forty-two"), user("::say x")).headers["x-claude-history"] == "primed"
    prose = " ".join(texts(last_told(model)))
    assert prose.index("do it") < prose.index("a (call_1)") < prose.index("forty-two") < prose.index("::say x")
    assert talker.say("::say y") == "continued"


def test_an_answer_rewritten_after_results_keeps_the_calls(client: httpx.Client, model: Model) -> None:
    """The last place that is known is the message with the calls."""
    talker = talker_of(client)
    ids = parked(talker)
    talker.send(*(result(i, f"result of {i}") for i in ids))
    talker.messages[-1] = assistant("rewritten")
    assert talker.say("::say on") == "primed"
    found = last_told(model)
    assert found[:-2] == talker.asked[: len(found) - 2]
    assert found[-3] == ("result", ids[2], f"result of {ids[2]}")
    assert "assistant: rewritten" in found[-2][1]
    assert talker.say("::say and on") == "continued"


def test_the_judge_tells_calls_of_the_clients_tools_from_the_clis_own() -> None:
    entry = {"messages": [{"role": "assistant", "told": [["call", "1", "Bash"], ["call", "2", PREFIX + "a"]]},
                          {"role": "user", "told": [["result", "1", "x"], ["result", "2", "y"]]}]}  # fmt: skip
    assert told(entry) == [("call", "2"), ("result", "2", "y")]
