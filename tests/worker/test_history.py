"""The history rules as a pure function."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_worker.history import EMPTY, Aside, Continue, Known, classify, extend
from claude_worker.openai.request import ChatRequest, Message

TITLE = "You are a title generator. You output ONLY a thread title. Nothing else."


def request(*said: tuple[str, str], tools: list[Any] | None = None) -> ChatRequest:
    return ChatRequest([Message(role, text) for role, text in said], tools=tools)


def knowing(*said: tuple[str, str], system: str = "", had_tools: bool = False) -> Known:
    """A conversation in which `said` has been said."""
    prefixes, tip = set(), EMPTY
    for role, text in said:
        tip = extend(tip, [Message(role, text)])
        prefixes.add(tip)
    return Known(prefixes, tip, established=bool(said), had_tools=had_tools, system=system)


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [m.text() for m in messages]


def test_the_first_message_of_a_conversation_is_sent() -> None:
    rule = classify(request(("user", "hi")), Known(()), client_session=False)
    assert rule == Continue((Message("user", "hi"),), EMPTY)


def test_known_history_is_not_sent_again() -> None:
    known = knowing(("user", "a"), ("assistant", "b"))
    rule = classify(request(("user", "a"), ("assistant", "b"), ("user", "c")), known, client_session=False)
    assert isinstance(rule, Continue)
    assert texts(rule.new) == ["c"]
    assert rule.base == known.tip
    assert rule.context == ()


def test_a_client_that_sends_only_its_last_message_continues_from_the_tip() -> None:
    known = knowing(("user", "a"), ("assistant", "b"))
    rule = classify(request(("user", "c")), known, client_session=False)
    assert rule == Continue((Message("user", "c"),), known.tip)


def test_white_space_that_a_client_trims_or_adds_does_not_make_a_message_new() -> None:
    known = knowing(("user", "a"), ("assistant", "one\n\ntwo "))
    rule = classify(request(("user", " a"), ("assistant", "one\ntwo"), ("user", "c")), known, client_session=False)
    assert isinstance(rule, Continue)
    assert texts(rule.new) == ["c"]


def test_foreign_history_on_a_new_conversation_becomes_context_once() -> None:
    rule = classify(request(("user", "a"), ("assistant", "b"), ("user", "c")), Known(()), client_session=False)
    assert isinstance(rule, Continue)
    assert (texts(rule.context), texts(rule.new)) == (["a", "b"], ["c"])


def test_several_new_messages_of_the_user_are_all_sent() -> None:
    known = knowing(("user", "a"), ("assistant", "b"))
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("user", "d")]
    rule = classify(request(*said), known, client_session=False)
    assert isinstance(rule, Continue)
    assert texts(rule.new) == ["c", "d"]


@pytest.mark.parametrize("established", [False, True])
def test_opencodes_title_request_is_an_aside_before_and_after_the_first_turn(established: bool) -> None:
    known = (
        knowing(("user", "fix it"), ("assistant", "done"), system="agent", had_tools=True) if established else Known(())
    )
    said = [("system", TITLE), ("user", "Generate a title for this conversation:\n"), ("user", "fix it")]
    rule = classify(request(*said), known, client_session=True)
    assert isinstance(rule, Aside)
    assert rule.system == TITLE


def test_another_system_prompt_without_tools_is_an_aside_of_a_client_that_has_tools() -> None:
    known = knowing(("user", "a"), ("assistant", "b"), system="agent", had_tools=True)
    assert isinstance(classify(request(("system", "judge this"), ("user", "x")), known, client_session=False), Aside)
    same = request(("system", "agent"), ("user", "x"))
    assert isinstance(classify(same, known, client_session=False), Continue)


def test_a_persons_own_system_prompt_is_never_an_aside() -> None:
    """curl with an id and a system prompt, even one that names titles, talks to its conversation."""
    for system in ("You are terse.", TITLE):
        rule = classify(request(("system", system), ("user", "x")), Known(()), client_session=False)
        assert isinstance(rule, Continue)
    rule = classify(request(("system", "You are terse."), ("user", "x")), Known(()), client_session=True)
    assert isinstance(rule, Continue)


def test_a_continuation_without_tools_is_not_an_aside() -> None:
    known = knowing(("user", "a"), ("assistant", "b"), system="agent", had_tools=True)
    said = [("system", "other"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    assert isinstance(classify(request(*said), known, client_session=True), Continue)


message = st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1).filter(lambda t: bool(t.strip())))


@given(st.lists(message, max_size=6), st.lists(message, max_size=3), st.text(min_size=1), st.booleans())
def test_what_the_user_said_last_is_always_sent(
    before: list[tuple[str, str]], known: list[tuple[str, str]], last: str, own: bool
) -> None:
    rule = classify(request(*before, ("user", last)), knowing(*known), client_session=own)
    assert isinstance(rule, Continue)
    assert rule.new[-1] == Message("user", last)
    assert all(m.role == "user" for m in rule.new), "what the model said is never put into the user's mouth"


@given(st.lists(message, min_size=1, max_size=6), st.text(min_size=1))
def test_what_the_memory_holds_is_never_sent(before: list[tuple[str, str]], last: str) -> None:
    rule = classify(request(*before, ("user", last)), knowing(*before), client_session=False)
    assert isinstance(rule, Continue)
    assert rule.new == (Message("user", last),)
    assert rule.context == ()


@given(st.lists(message, min_size=1, max_size=4), st.lists(message, min_size=1, max_size=4))
def test_different_histories_have_different_hashes(a: list[tuple[str, str]], b: list[tuple[str, str]]) -> None:
    def seen(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(r, "".join(t.split())) for r, t in said]

    same = extend(EMPTY, [Message(*m) for m in a]) == extend(EMPTY, [Message(*m) for m in b])
    assert same == (seen(a) == seen(b))
