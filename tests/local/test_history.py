"""Histories against the real CLI, with the scripted model as the judge: what it is told is what the client sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from local.harness import Json, Model, Running, chat, cli_pid, content, eventually
from local.talker import Talker, assistant, last_told, refused, said, texts, told, user

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


Launch = Callable[..., Running]


@pytest.fixture
def worker(launch: Launch) -> Running:
    return launch()


@pytest.fixture
def client(worker: Running) -> Iterator[httpx.Client]:
    with worker.client() as found:
        yield found


def exact(model: Model, talker: Talker) -> None:
    """The model's last request held what the client sent for it."""
    assert last_told(model) == talker.asked


# -- where a turn goes ---------------------------------------------------------------------------------------------


def test_a_history_goes_on(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    assert [talker.say(f"::say answer {i}") for i in range(4)] == ["continued"] * 4
    exact(model, talker)


def test_an_edited_message_forks_and_the_branch_before_is_found_again(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    for i in range(3):
        talker.say(f"::say answer {i}")
    other = talker.branch(2)
    assert other.say("::say another answer") == "forked"
    exact(model, other)
    assert talker.say("::say back") == "forked"
    exact(model, talker)
    assert other.say("::say there again") == "forked"
    exact(model, other)
    assert other.say("::say and on") == "continued"
    exact(model, other)


def test_the_first_message_can_be_edited(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say one")
    talker.say("::say two")
    other = talker.branch(0)
    assert other.say("::say one, edited", headers={"x-claude-history": "full"}) == "forked"
    exact(model, other)
    assert talker.say("::say three") == "forked"
    exact(model, talker)


def test_a_delivered_answer_that_is_asked_for_again_is_regenerated(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say one")
    talker.say("::say two")
    other = talker.branch(2)
    mark = model.mark()
    assert other.say("::say two") == "forked"
    assert len(model.log(after=mark)) == 1
    exact(model, other)
    assert other.say("::say three") == "continued"
    exact(model, other)


def test_what_clients_change_on_their_own_does_not_count(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::think hm\n::say one two  three")
    talker.say("::say four")
    talker.messages[1] = {"role": "assistant", "content": [{"type": "text", "text": "one two three \n"}]}
    talker.messages[2] = {"role": "user", "content": [
        {"type": "text", "text": "::say four\n", "cache_control": {"type": "ephemeral"}}]}  # fmt: skip
    assert talker.say("::say five") == "continued"
    exact(model, talker)


def test_a_rewritten_history_is_primed_once_and_says_so(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say one")
    talker.messages = [user("What did we do?"), assistant("A summary of it")]
    assert talker.say("::say two") == "primed"
    context, *prompts = texts(last_told(model))
    assert "user: What did we do? assistant: A summary of it" in context
    assert prompts == ["::say two"]
    assert talker.say("::say three") == "continued"
    assert texts(last_told(model)) == [context, "::say two", "::say three"]


def test_an_edited_answer_is_told_after_the_messages_before_it(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    for word in ("one", "two"):
        talker.say(f"::say {word}")
    talker.messages[3] = assistant("not what was said")
    assert talker.say("::say three") == "primed"
    first, context, last = texts(last_told(model))
    assert (first, last) == ("::say one", "::say three")
    assert "user: ::say two assistant: not what was said" in context
    assert texts(last_told(model), "assistant") == ["one"]


def test_a_client_that_sends_only_its_newest_message_goes_on(client: httpx.Client, model: Model) -> None:
    for i in range(3):
        assert chat(client, f"::say {i}").headers["x-claude-history"] == "continued"
    assert texts(last_told(model)) == ["::say 0", "::say 1", "::say 2"]


def test_such_a_client_may_say_the_same_again(client: httpx.Client, model: Model) -> None:
    for _ in range(3):
        assert content(chat(client, "::say yes")) == "yes"
    assert texts(last_told(model)) == ["::say yes"] * 3


def test_such_a_client_beside_one_with_the_history_goes_on_where_that_is(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say one")
    talker.say("::say two")
    last = {"x-claude-history": "last"}
    assert chat(client, "::say three").headers["x-claude-history"] == "continued"
    assert texts(last_told(model)) == ["::say one", "::say two", "::say three"]
    assert talker.say("::say four") == "forked"
    exact(model, talker)
    assert chat(client, "::say five", headers=last).headers["x-claude-history"] == "continued"
    assert texts(last_told(model)) == ["::say one", "::say two", "::say four", "::say five"]


def test_another_system_prompt_is_named_as_without_effect(client: httpx.Client) -> None:
    talker = Talker(client)
    talker.messages = [{"role": "system", "content": "Be one."}]
    assert "x-claude-ignored" not in talker.send(user("::say x")).headers
    talker.messages[0] = {"role": "system", "content": "Be another."}
    assert talker.send(user("::say y")).headers["x-claude-ignored"] == "system"


# -- what is cut off -----------------------------------------------------------------------------------------------


def test_the_part_of_an_answer_that_the_client_saw_is_known_again(launch: Launch, model: Model) -> None:
    worker = launch(DETACH_MS="0")
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        with talker.reading(user("::say alpha beta gamma\n::sleep 30"), until="gamma"):
            pass
        # It saw less than the CLI remembers: what was in flight is lost when a client goes.
        talker.messages += [user("::say alpha beta gamma\n::sleep 30"), assistant("alpha be")]
        assert talker.say("::say two") == "continued"
        told_now = last_told(model)
    assert texts(told_now) == ["::say one", "::say alpha beta gamma ::sleep 30", "::say two"]
    assert texts(told_now, "assistant") == ["one", "alpha beta gamma"]


def test_a_turn_that_was_stopped_before_it_said_anything_is_sent_with_the_next(launch: Launch, model: Model) -> None:
    worker = launch(DETACH_MS="0")
    with worker.client() as client:
        talker = Talker(client)
        talker.say("::say one")
        mark = model.mark()
        with pytest.raises(httpx.ReadTimeout):
            talker.client.post("/v1/chat/completions", json={"messages": [*talker.messages, user("::sleep 30")]},
                               timeout=1.0)  # fmt: skip
        eventually(lambda: model.log(after=mark))
        talker.messages.append(user("::sleep 30"))
        talker.say("::say two")
        exact(model, talker)
    worker.stop()


# -- other fields of a request -------------------------------------------------------------------------------------


def test_an_answer_that_follows_a_schema_and_one_that_does_not_need_to(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say before")
    answer = talker.send(user('::tool StructuredOutput {"a": 7}'), response_format=FORMAT)
    assert (said(answer), answer.headers["x-claude-history"]) == ('{"a":7}', "continued")
    assert talker.say("::say after") == "continued"
    assert talker.last["content"] == "after"
    assert texts(last_told(model)) == ["::say before", '::tool StructuredOutput {"a": 7}', "::say after"]


def test_such_an_answer_is_gone_back_to_with_all_that_belongs_to_it(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.send(user('::tool StructuredOutput {"a": 7}'), response_format=FORMAT)
    other = talker.branch(2)
    talker.say("::say on")
    assert other.say("::say another way") == "forked"
    results = [what for m in model.log()[-1]["messages"] for kind, *what in m["told"] if kind == "result"]
    assert [text for _, text in results] == ["Structured output provided successfully"]
    assert texts(last_told(model)) == texts(other.asked)


def test_a_schema_that_is_not_met_is_an_error_and_the_conversation_goes_on(client: httpx.Client, model: Model) -> None:
    talker = Talker(client)
    talker.say("::say before")
    failed = talker.post(user('::tool StructuredOutput {"b": 7}\n::say no'), response_format=FORMAT)
    assert refused(failed) == (422, "response_format_not_met")
    assert talker.say("::say after") == "forked"
    exact(model, talker)


def test_the_effort_is_the_clis_own_argument(client: httpx.Client, worker: Running, model: Model) -> None:
    def effort() -> str:
        command = Path(f"/proc/{cli_pid(worker.process.pid)}/cmdline").read_text().split("\0")
        return command[command.index("--effort") + 1] if "--effort" in command else ""

    talker = Talker(client)
    found = []
    for level in ("minimal", "high", None, "high"):
        assert talker.say(f"::say at {level}", reasoning_effort=level) == "continued"
        found.append(effort())
    assert found == ["low", "high", "", "high"]
    exact(model, talker)


def test_images_reach_the_model_and_belong_to_the_message(client: httpx.Client, model: Model) -> None:
    picture: Json = {"type": "image_url", "image_url": {"url": PIXEL}}
    talker = Talker(client)
    talker.send({"role": "user", "content": [{"type": "text", "text": "::say seen"}, picture]})
    assert model.log()[-1]["images"] == 1
    assert talker.say("::say and again") == "continued"
    assert model.log()[-1]["images"] == 1
    exact(model, talker)
    other = talker.branch(0)
    other.messages = [user("::say seen"), talker.messages[1]]
    assert other.say("::say without") == "primed"
    assert model.log()[-1]["images"] == 0


def test_a_mark_in_the_log_is_what_a_client_is_judged_by(model: Model) -> None:
    """The judge's own words: what the CLI adds does not count, and texts, calls and results keep their order."""
    entry: Json = {"messages": [
        {"role": "user", "told": [["text", "a  b"]]},
        {"role": "assistant", "told": [["text", "c"], ["call", "t", "mcp__client__n"], ["call", "u", "Bash"]]},
        {"role": "user", "told": [["result", "t", "r "], ["result", "u", "x"]]},
        {"role": "system", "told": [["text", "x"]]},
    ]}  # fmt: skip
    assert told(entry) == [("user", "a b"), ("assistant", "c"), ("call", "t"), ("result", "t", "r")]
