"""The history rules as a pure function, by examples; the laws are in test_history_laws.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_worker.history import Aside, Asked, Hints, Known, Node, Repeat, Rule, Run, classify
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import CallFunction, CallPart, ChatRequest, Message
from claude_worker.prefixes import EMPTY, cut_text, extend, prefixes

TITLE = "You are a title generator. You output ONLY a thread title. Nothing else."
FULL, LAST = Hints(sends="full"), Hints(sends="last")
AGENT = Hints(client_session=True)
RETRY = Hints(retry=True)


def request(*said: tuple[str, str], tools: list[Any] | None = None) -> ChatRequest:
    return ChatRequest([Message(role, text) for role, text in said], tools=tools)


def call(identity: str, name: str = "get", arguments: str = "{}") -> CallPart:
    return CallPart(identity, "function", CallFunction(name, arguments))


def knowing(*said: tuple[str, str], **more: Any) -> Known:
    """A conversation in which `said` has been said: a node after every answer, a turn for every question."""
    nodes, asked, tip, base = {}, {}, EMPTY, EMPTY
    last = None
    for i, (role, text) in enumerate(said):
        tip = extend(tip, [Message(role, text)])
        if role == "user":
            last = asked[tip] = Asked(tip, base, f"turn-{i}", "done", delivered=True)
        else:
            base = tip
            nodes[tip] = Node(tip, "s", f"m{i}")
            assert last is not None
            last.answer = tip
    return Known(nodes, asked, {}, last, tip, True, established=bool(said), **more)


def run(rule: Rule) -> Run:
    assert isinstance(rule, Run)
    return rule


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [m.text() for m in messages]


AB = (("user", "a"), ("assistant", "b"))
ABCD = (*AB, ("user", "c"), ("assistant", "d"))


def test_the_first_message_of_a_conversation_is_sent() -> None:
    rule = run(classify(request(("user", "hi")), Known()))
    assert (rule.kind, texts(rule.new), rule.base) == ("continued", ["hi"], EMPTY)


def test_known_history_is_not_sent_again() -> None:
    known = knowing(*AB)
    rule = run(classify(request(*AB, ("user", "c")), known))
    assert (rule.kind, texts(rule.new), rule.base, rule.context) == ("continued", ["c"], known.tip, ())


def test_a_client_that_sends_only_its_last_message_continues_where_the_conversation_is() -> None:
    known = knowing(*AB)
    rule = run(classify(request(("user", "c")), known))
    assert (rule.kind, texts(rule.new), rule.base, rule.exact) == ("continued", ["c"], known.tip, False)


def test_saying_the_same_again_is_a_turn_of_its_own() -> None:
    """A person who answers "yes" twice at a terminal."""
    known = knowing(("user", "yes"), ("assistant", "b"))
    assert run(classify(request(("user", "yes")), known)).kind == "continued"
    assert isinstance(classify(request(("user", "yes")), known, RETRY), Repeat), "unless an SDK says that it retries"


def test_an_edited_message_begins_where_its_history_ends() -> None:
    known = knowing(*ABCD)
    rule = run(classify(request(*AB, ("user", "c2")), known))
    assert (rule.kind, texts(rule.new)) == ("edited", ["c2"])
    assert rule.base == extend(EMPTY, [Message(*m) for m in AB])


def test_an_edited_first_message_begins_anew() -> None:
    """Of a client that is known to send its whole history, in one way or another."""
    for known, hints in ((knowing(*AB), FULL), (knowing(*AB), AGENT)):
        rule = run(classify(request(("user", "a2")), known, hints))
        assert (rule.kind, rule.base, texts(rule.new)) == ("edited", EMPTY, ["a2"])
    with_system = request(("system", "s"), ("user", "a2"))
    assert run(classify(with_system, knowing(*AB, full=True))).kind == "edited"
    assert run(classify(with_system, knowing(*AB))).kind == "continued", "a person at a terminal"
    assert run(classify(request(("user", "a2")), knowing(*AB, full=True))).kind == "continued", "another client"
    tools = request(("user", "a2"), tools=[{}])
    assert run(classify(tools, knowing(*AB))).kind == "edited"


def test_a_header_says_that_only_the_last_message_is_sent() -> None:
    known = knowing(*AB, full=True)
    rule = run(classify(request(*AB, ("user", "c"), ("user", "d")), known, LAST))
    assert (rule.kind, rule.base, texts(rule.new)) == ("continued", known.tip, ["c", "d"])


def test_the_same_history_again_is_a_regeneration_once_its_answer_was_delivered() -> None:
    known = knowing(*ABCD)
    same = request(*ABCD[:3])
    assert run(classify(same, known)).kind == "regenerated"
    assert isinstance(classify(same, known, RETRY), Repeat)
    assert known.last is not None
    known.last.delivered = False
    assert isinstance(classify(same, known), Repeat), "the client never got it"


@pytest.mark.parametrize(("state", "retried"), [("running", True), ("lost", True), ("interrupted", False)])
def test_a_retry_of_a_turn_that_has_no_answer(state: Any, retried: bool) -> None:
    known = knowing(*ABCD)
    assert known.last is not None
    known.last.state = state
    assert isinstance(classify(request(*ABCD[:3]), known, RETRY), Repeat) == retried


def test_a_lost_turn_is_run_again_only_when_a_person_asks() -> None:
    known = knowing(*ABCD)
    assert known.last is not None
    known.last.state = "lost"
    assert run(classify(request(*ABCD[:3]), known)).kind == "regenerated"


def test_a_client_that_comes_back_attaches_to_its_running_turn() -> None:
    known = knowing(("user", "a"))
    assert known.last is not None
    known.last.state = "running"
    assert isinstance(classify(request(("user", "a")), known), Repeat)
    known.last.watched = True
    assert run(classify(request(("user", "a")), known)).kind == "continued", "another one says the same: it waits"


def test_going_back_to_an_earlier_branch_finds_it() -> None:
    one, other = knowing(*ABCD), knowing(*AB, ("user", "x"), ("assistant", "y"))
    known = Known({**one.nodes, **other.nodes}, {}, {}, None, other.tip, True, full=True, established=True)
    rule = run(classify(request(*ABCD, ("user", "e")), known))
    assert (rule.kind, rule.base, texts(rule.new)) == ("edited", one.tip, ["e"])


def test_a_foreign_history_is_told_once() -> None:
    rule = run(classify(request(*AB, ("user", "c")), Known()))
    assert (rule.kind, texts(rule.context), texts(rule.new)) == ("rewritten", ["a", "b"], ["c"])


def test_a_rewritten_end_is_told_after_the_part_that_is_known() -> None:
    known = knowing(*ABCD)
    rule = run(classify(request(*AB, ("user", "c"), ("assistant", "other"), ("user", "e")), known))
    assert (rule.kind, texts(rule.context), texts(rule.new)) == ("rewritten", ["c", "other"], ["e"])
    assert rule.base == extend(EMPTY, [Message(*m) for m in AB])


def test_a_turn_that_failed_is_told_with_the_next_message() -> None:
    failed = knowing(*AB, ("user", "c"))
    known = Known(failed.nodes, failed.asked, {}, failed.last, failed.tip, False, full=True, established=True)
    rule = run(classify(request(*AB, ("user", "c"), ("user", "d")), known))
    assert (rule.kind, texts(rule.new), rule.exact) == ("edited", ["c", "d"], True)


def test_an_answer_that_was_cut_off_is_known_by_its_beginning() -> None:
    whole = knowing(("user", "a"), ("assistant", "one two three"))
    node = Node(whole.tip, "s", "m1", (), cut_text("one two three"))
    asked = extend(EMPTY, [Message("user", "a")])
    known = Known({whole.tip: node}, whole.asked, {asked: node}, whole.last, whole.tip, True, established=True)
    rule = run(classify(request(("user", "a"), ("assistant", "one two"), ("user", "c")), known))
    assert (rule.kind, rule.base) == ("continued", whole.tip)
    other = run(classify(request(("user", "a"), ("assistant", "one more"), ("user", "c")), known))
    assert other.kind == "rewritten"


def test_an_empty_answer_is_none() -> None:
    known = knowing(*AB)
    rule = run(classify(request(*AB, ("user", "c"), ("assistant", ""), ("user", "d")), known))
    assert (rule.kind, texts(rule.new)) == ("continued", ["c", "d"])


# -- the client's tools ----------------------------------------------------------------------------------------------


def parked(*ids: str) -> tuple[Known, list[Message]]:
    """A conversation whose model waits for the results of these calls."""
    said = [Message("user", "a"), Message("assistant", None, tool_calls=[call(i) for i in ids])]
    tip = extend(EMPTY, said)
    return Known({tip: Node(tip, "s", "m", ids)}, {}, {}, None, tip, True, full=True, established=True), said


def result(identity: str, text: str = "r") -> Message:
    return Message("tool", text, tool_call_id=identity)


def test_results_go_to_the_calls_in_any_order() -> None:
    known, said = parked("t1", "t2")
    rules = [
        run(classify(ChatRequest([*said, *results]), known))
        for results in ([result("t1"), result("t2")], [result("t2"), result("t1")])
    ]
    assert rules[0] == rules[1]
    assert (rules[0].kind, rules[0].base, len(rules[0].new)) == ("continued", known.tip, 2)


def test_another_message_instead_of_results_is_sent_to_the_same_place() -> None:
    known, said = parked("t1")
    rule = run(classify(ChatRequest([*said, Message("user", "never mind")]), known))
    assert (rule.kind, rule.base, texts(rule.new)) == ("continued", known.tip, ["never mind"])


@pytest.mark.parametrize(
    ("given", "code"), [(["t1"], "missing_tool_result"), (["t1", "t2", "t3"], "unknown_tool_call_id")]
)
def test_results_that_do_not_fit_are_refused(given: list[str], code: str) -> None:
    known, said = parked("t1", "t2")
    with pytest.raises(ApiError) as refusal:
        classify(ChatRequest([*said, *(result(i) for i in given)]), known)
    assert refusal.value.code == code


def test_calls_count_by_their_ids() -> None:
    """Clients write arguments anew, fill in defaults, and even rename a call of a tool that they do not have."""
    one = Message("assistant", None, tool_calls=[call("t", arguments='{"a": 1}'), call("u")])
    other = Message("assistant", "", tool_calls=[call("u", "invalid"), call("t", arguments='{"a":1,"b":3}')])
    assert extend(EMPTY, [one]) == extend(EMPTY, [other])
    assert extend(EMPTY, [one]) != extend(EMPTY, [Message("assistant", None, tool_calls=[call("t")])])


def test_foreign_calls_are_told_with_their_results() -> None:
    said = [Message("user", "a"), Message("assistant", None, tool_calls=[call("x")]), result("x")]
    rule = run(classify(ChatRequest(said), Known()))
    assert (rule.kind, len(rule.context), rule.new) == ("rewritten", 3, ())


# -- previous turns, by their id -------------------------------------------------------------------------------------


def test_a_previous_turn_is_gone_on_from() -> None:
    known = knowing(*ABCD)
    assert known.last is not None
    first = next(iter(known.asked.values()))
    for turn, kind in ((known.last, "continued"), (first, "edited")):
        rule = run(classify(ChatRequest([Message("user", "e")], previous=turn.uuid.replace("-", "")), known))
        assert (rule.kind, rule.base, texts(rule.new)) == (kind, turn.answer, ["e"])
    with pytest.raises(ApiError) as unknown:
        classify(ChatRequest([Message("user", "e")], previous="0" * 32), known)
    assert (unknown.value.status, unknown.value.code) == (404, "previous_response_not_found")


# -- side tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("established", [False, True])
def test_opencodes_title_request_is_an_aside_before_and_after_the_first_turn(established: bool) -> None:
    known = knowing(*AB, system="agent", had_tools=True) if established else Known()
    said = [("system", TITLE), ("user", "Generate a title for this conversation:\n"), ("user", "fix it")]
    rule = classify(request(*said), known, AGENT)
    assert isinstance(rule, Aside)
    assert rule.system == TITLE


def test_another_system_prompt_without_tools_is_an_aside_of_a_client_that_has_tools() -> None:
    known = knowing(*AB, system="agent", had_tools=True)
    assert isinstance(classify(request(("system", "judge this"), ("user", "x")), known), Aside)
    assert isinstance(classify(request(("system", "agent"), ("user", "x")), known), Run)


def test_a_persons_own_system_prompt_is_never_an_aside() -> None:
    """curl with an id and a system prompt, even one that names titles, talks to its conversation."""
    for system in ("You are terse.", TITLE):
        assert isinstance(classify(request(("system", system), ("user", "x")), Known()), Run)
    assert isinstance(classify(request(("system", "You are terse."), ("user", "x")), Known(), AGENT), Run)


def test_a_continuation_without_tools_is_not_an_aside() -> None:
    known = knowing(*AB, system="agent", had_tools=True)
    said = [("system", "other"), *AB, ("user", "c")]
    assert isinstance(classify(request(*said), known, AGENT), Run)


# -- hashes ----------------------------------------------------------------------------------------------------------

message = st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1).filter(lambda t: bool(t.strip())))


@given(st.lists(message, max_size=6), st.lists(message, max_size=3), st.text(min_size=1).filter(str.strip))
def test_nothing_that_a_client_says_is_dropped(
    before: list[tuple[str, str]], known: list[tuple[str, str]], last: str
) -> None:
    said = [*before, ("user", last)]
    rule = classify(request(*said), knowing(("user", "0"), *known), FULL)
    if isinstance(rule, Run):
        told = [*rule.context, *rule.new]
        assert told == [Message(*m) for m in said[len(said) - len(told) :]]
        assert extend(rule.base, told) == rule.asked == extend(EMPTY, [Message(*m) for m in said])
        assert all(m.role == "user" for m in rule.new), "what the model said is never put into the user's mouth"


@given(st.lists(message, min_size=1, max_size=4), st.lists(message, min_size=1, max_size=4))
def test_different_histories_have_different_hashes(a: list[tuple[str, str]], b: list[tuple[str, str]]) -> None:
    def seen(said: list[tuple[str, str]]) -> list[tuple[str, bytes]]:
        ascii_blanks = b" \t\r\n\x0b\x0c"
        return [
            (
                r,
                t.encode().translate(None, ascii_blanks)
                if r == "assistant"
                else t.replace("\r\n", "\n").encode().strip(),
            )
            for r, t in said
        ]

    same = extend(EMPTY, [Message(*m) for m in a]) == extend(EMPTY, [Message(*m) for m in b])
    assert same == (seen(a) == seen(b))


def test_system_messages_are_not_part_of_a_history() -> None:
    said = [Message("system", "s"), Message("user", "a"), Message("assistant", "b")]
    assert prefixes(said) == prefixes(said[1:]) == [extend(EMPTY, said[1:2]), extend(EMPTY, said[1:])]
