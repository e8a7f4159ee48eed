"""Calls of the client's tools: what is shown of them, and when the answer ends with them."""

from __future__ import annotations

import pytest

from claude_worker.bridge import ClientCall
from claude_worker.events import Arguments, Begin, End, Event, Text, ToolCall, UsageView
from claude_worker.translate import Translator
from worker.cli_frames import assistant, begin, event, feed, result, stop, text, texts, use

BERN, ROME = '{"city": "Bern"}', '{"city": "Rome"}'
WEATHER = "mcp__client__get_weather"


def translator() -> Translator:
    t = Translator(tool_activity="reasoning")
    t.claude_session_id = "s"
    return t


def shown(index: int, call: str, arguments: str) -> list[Event]:
    return [ToolCall(index, call, "get_weather"), Arguments(index, arguments)]


def parked(usage: UsageView | None = None) -> End:
    return End("tool_calls", usage or UsageView(), 0.0, "s")


def test_the_answer_ends_with_all_calls_of_the_message() -> None:
    t = translator()
    first = use(WEATHER, '{"ci', 'ty": "Bern"}', call="toolu_1", index=1)
    events = feed(t, begin(prompt=5), text("Let me see."), *first)
    assert t.announce(ClientCall("toolu_1", "get_weather", BERN)) == []
    assert not t.parked
    events += feed(t, *use(WEATHER, ROME, call="toolu_2", index=2), *stop(output=8))
    assert events == [
        Begin(), Text("Let me see."), *shown(0, "toolu_1", BERN), *shown(1, "toolu_2", ROME), parked(UsageView(5, 8)),
    ]  # fmt: skip
    assert (t.parked, t.finished, t.finish_reason) == (True, False, "tool_calls")
    assert t.calls == [ClientCall("toolu_1", "get_weather", BERN), ClientCall("toolu_2", "get_weather", ROME)]
    assert t.announce(ClientCall("toolu_2", "get_weather", ROME)) == []


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert feed(translator(), *use(WEATHER))[1:] == shown(0, "toolu_1", "{}")


def test_a_message_with_only_the_clis_own_calls_does_not_end_the_answer() -> None:
    t = translator()
    feed(t, begin(), *use("Read", "{}"), *stop())
    assert not t.parked


@pytest.mark.parametrize("given", ['{"city": "Be', "[1]"])
def test_a_call_that_cannot_be_made_is_not_shown(given: str) -> None:
    """The CLI refuses it itself, and asks the model again."""
    t = translator()
    assert feed(t, begin(), *use(WEATHER, given), *stop("max_tokens")) == [Begin()]
    assert (t.parked, t.calls) == (False, [])


def test_a_message_that_is_cut_off_in_a_call_leaves_nothing_of_it() -> None:
    t = translator()
    cut = use(WEATHER, '{"ci')[:-1]
    again = use(WEATHER, BERN, call="toolu_2")
    events = feed(t, begin(), *cut, *stop(None), begin("msg_2"), *again, *stop())
    assert events == [Begin(), *shown(0, "toolu_2", BERN), parked(UsageView(0, 1))]


def test_a_message_that_is_cut_off_after_a_call_ends_the_answer_when_the_call_is_made() -> None:
    early, late = translator(), translator()
    call = ClientCall("toolu_1", "get_weather", BERN)
    feed(early, begin(), *use(WEATHER, BERN))
    early.announce(call)
    assert feed(early, *stop(None)) == [parked(UsageView(0, 1))]
    assert feed(late, begin(), *use(WEATHER, BERN), *stop(None))[-1] == Arguments(0, BERN)
    assert late.announce(call) == [parked(UsageView(0, 1))]


def test_a_call_that_the_cli_refuses_is_not_waited_for() -> None:
    t = translator()
    refusal = [{"type": "tool_result", "is_error": True, "content": "denied", "tool_use_id": "toolu_1"}]
    feed(t, begin(), *use(WEATHER, BERN), {"type": "user", "message": {"content": refusal}}, *stop())
    assert not t.parked


def test_a_call_that_is_made_before_its_block_ends_is_one_call() -> None:
    t = translator()
    block = use(WEATHER, BERN)
    feed(t, begin(), *block[:-1])
    assert t.announce(ClientCall("toolu_1", "get_weather", BERN)) == []
    assert feed(t, block[-1], *stop()) == [*shown(0, "toolu_1", BERN), parked()]


def test_a_message_that_was_not_streamed_ends_the_answer_with_the_first_call_made() -> None:
    t = translator()
    blocks = [{"type": "tool_use", "id": f"toolu_{i}", "name": WEATHER, "input": {"city": "Bern"}} for i in (1, 2)]
    usage = {"input_tokens": 5, "output_tokens": 6}
    events = feed(t, *(assistant(block, message="msg_9", usage=usage) for block in blocks))
    assert events == [Begin(), *shown(0, "toolu_1", BERN), *shown(1, "toolu_2", BERN)]
    assert t.announce(ClientCall("toolu_1", "get_weather", BERN)) == [parked(UsageView(5, 6))]


def test_a_subagents_call_is_shown_when_it_is_made() -> None:
    t = translator()
    assert feed(t, *use(WEATHER, BERN, parent="toolu_0")) == []
    assert t.announce(ClientCall("toolu_1", "get_weather", BERN)) == [Begin(), *shown(0, "toolu_1", BERN), parked()]


# -- going on ----------------------------------------------------------------------------------------------------


def ask_weather(t: Translator, prompt: int, output: int) -> None:
    t.cost_before = 0.25
    feed(t, begin(prompt=prompt), assistant({"type": "text", "text": "x"}, uuid="u1"), *use(WEATHER, BERN),
         *stop(output=output))  # fmt: skip
    assert t.parked


def test_the_next_answer_tells_only_what_came_since() -> None:
    one, two, three = translator(), translator(), translator()
    ask_weather(one, 10, 1)
    assert two.resumed(one) == []
    ask_weather(two, 20, 2)
    three.resumed(two)
    total = result(usage={"input_tokens": 60, "output_tokens": 6}, total_cost_usd=0.75, result="never mind")
    events = feed(three, begin("msg_3"), text("sunny"), total)
    assert events == [Begin(), Text("sunny"), End("stop", UsageView(30, 3), 0.5, "s")]
    assert (two.usage, three.last_uuid) == (UsageView(20, 2), "u1")


def test_what_the_cli_says_while_it_waits_belongs_to_the_next_answer() -> None:
    """The main thread goes on when it was a background agent that called."""
    one, two = translator(), translator()
    feed(one, begin(), text("a"))
    one.announce(ClientCall("toolu_1", "get_weather", BERN))
    assert feed(one, text("b"), text("inner", parent="toolu_0"), event("ping", parent="toolu_0")) == []
    assert one.announce(ClientCall("toolu_1", "get_weather", BERN)) == []
    assert one.announce(ClientCall("toolu_2", "get_weather", ROME)) == []
    assert feed(one, text("c")) == []
    assert two.resumed(one) == [Begin(), Text("b"), *shown(0, "toolu_2", ROME), parked()]
    three = translator()
    assert texts(three.resumed(two)) == "c"


def test_a_waiting_turn_that_is_interrupted_is_aborted() -> None:
    one, two = translator(), translator()
    ask_weather(one, 10, 1)
    end = result(is_error=True, terminal_reason="aborted_tools", total_cost_usd=0.75, usage={"input_tokens": 0})
    assert feed(one, end, assistant(uuid="u9")) == []
    assert (one.finished, one.aborted, one.cost_usd, one.usage) == (True, True, 0.5, UsageView(10, 1))
    assert one.last_uuid == "u1"
    assert two.resumed(one) == []
    assert (two.finished, two.aborted) == (True, True)
