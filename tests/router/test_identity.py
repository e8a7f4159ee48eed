"""Which conversation a request belongs to."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.names import CONVERSATION_ID_MAX
from claude_router.identity import Identity, decode_id, header_value, identify, split_model
from claude_router.sessions import ConversationKey
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest, parse
from claude_worker.openai.response_ids import response_id
from claude_worker.openai.responses import parse as parse_response

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=CONVERSATION_ID_MAX)
any_text = st.text(st.characters(), max_size=CONVERSATION_ID_MAX)  # lone surrogates too


def request(**more: Any) -> ChatRequest:
    body = {"model": "claude-code", "messages": [{"role": "user", "content": "x"}], **more}
    return parse(msgspec.json.encode(body))


HEADERS = {b"x-conversation-id": b"first", b"x-session-id": b"third", b"x-session-affinity": b"fourth"}
BODY = {"model": "claude-code-opus:second", "conversation_id": "fifth", "metadata": {"conversation_id": "sixth"}}


def test_the_order() -> None:
    headers, body = dict(HEADERS), dict(BODY)
    assert identify(headers, request(**body), "default") == Identity("first", "claude-code-opus", "header")
    del headers[b"x-conversation-id"]
    assert identify(headers, request(**body), "default") == Identity("second", "claude-code-opus", "model")
    body["model"] = "claude-code-opus"
    assert identify(headers, request(**body), "default") == Identity("third", "claude-code-opus", "session-header")
    del headers[b"x-session-id"]
    assert identify(headers, request(**body), "default") == Identity("fourth", "claude-code-opus", "session-header")
    del headers[b"x-session-affinity"]
    assert identify(headers, request(**body), "default") == Identity("fifth", "claude-code-opus", "body")
    del body["conversation_id"]
    assert identify(headers, request(**body), "default") == Identity("sixth", "claude-code-opus", "body")
    del body["metadata"]
    generated = identify(headers, request(**body), "default")
    assert generated.source == "generated"
    assert re.fullmatch(r"conv_[0-9a-f]{32}", generated.id)
    assert identify(headers, request(**body), "default").id != generated.id


def test_a_previous_response_comes_after_the_header_alone() -> None:
    turn = "0" * 32
    body = {**BODY, "input": "x", "previous_response_id": response_id("its own", turn)}
    asked = parse_response(msgspec.json.encode(body))
    assert identify({b"x-session-id": b"third"}, asked, "default") == Identity(
        "its own", "claude-code-opus", "previous"
    )
    assert identify(HEADERS, asked, "default").id == "first"
    without = parse_response(msgspec.json.encode({**body, "previous_response_id": response_id("", turn)}))
    assert identify({}, without, "default") == Identity("second", "claude-code-opus", "model")
    long = parse_response(msgspec.json.encode({**body, "previous_response_id": response_id("x" * 257, turn)}))
    with pytest.raises(ApiError) as refused:
        identify({}, long, "default")
    assert refused.value.param == "previous_response_id"


def test_an_idempotency_key_comes_last_and_always_gives_the_same_id() -> None:
    key = {b"idempotency-key": b"once"}
    found = identify(key, request(), "default")
    assert (found.source, found.made_up) == ("key", True)
    assert re.fullmatch(r"conv_[0-9a-f]{32}", found.id)
    assert identify(key, request(temperature=1), "default") == found
    assert identify(key, request(**BODY), "default").source == "model"
    assert identify(key, request(conversation_id="mine"), "default") == Identity("mine", "claude-code", "body")
    assert identify({b"idempotency-key": b""}, request(), "default").source == "generated"
    others = [({b"idempotency-key": b"twice"}, "default"), (key, "another"), ({b"idempotency-key": b"tonce"}, "defaul")]
    assert len({found.id, *(identify(headers, request(), tenant).id for headers, tenant in others)}) == 4


def test_empty_counts_as_absent() -> None:
    headers = dict.fromkeys(HEADERS, b"")
    body = {"model": "claude-code:", "conversation_id": "", "metadata": {"conversation_id": ""}}
    found = identify(headers, request(**body), "default")
    assert (found.source, found.model) == ("generated", "claude-code")
    assert identify(headers, request(conversation_id=None, metadata=None), "default").source == "generated"


def test_a_suffix_may_hold_anything() -> None:
    assert split_model("claude-code:a:b/c d") == ("claude-code", "a:b/c d")
    assert split_model("claude-code") == ("claude-code", "")


@pytest.mark.parametrize(
    ("headers", "more", "param"),
    [
        ({b"x-conversation-id": b"x" * 257}, {}, "X-Conversation-ID"),
        ({}, {"model": "claude-code:" + "x" * 257}, "model"),
        ({b"x-session-id": "ü".encode() * 257}, {}, "x-session-id"),
        ({b"x-session-affinity": b"\xff" * 257}, {}, "x-session-affinity"),
        ({}, {"conversation_id": "x" * 257}, "conversation_id"),
        ({}, {"metadata": {"conversation_id": "x" * 257}}, "metadata.conversation_id"),
    ],
)
def test_too_long(headers: dict[bytes, bytes], more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        identify(headers, request(**more), "default")
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "conversation_id_too_long", param)
    assert "257" in error.message


def test_the_limit_counts_characters_not_bytes() -> None:
    longest = "😀" * CONVERSATION_ID_MAX
    assert identify({b"x-conversation-id": longest.encode()}, request(), "default").id == longest


@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}, True])
def test_an_id_in_metadata_must_be_text(value: Any) -> None:
    with pytest.raises(ApiError) as refused:
        identify({}, request(metadata={"conversation_id": value}), "default")
    assert (refused.value.code, refused.value.param) == ("invalid_type", "metadata.conversation_id")
    # but only if it is what decides
    assert identify({}, request(conversation_id="a", metadata={"conversation_id": value}), "default").id == "a"


def test_percent_signs_stay() -> None:
    assert identify({b"x-conversation-id": b"a%2Fb"}, request(), "default").id == "a%2Fb"


def test_header_bytes_that_are_not_utf8_are_latin1() -> None:
    assert decode_id(b"caf\xe9") == "café"
    assert decode_id("café".encode()) == "café"


@given(ids)
def test_every_way_to_send_an_id_leads_to_the_same_conversation(conversation_id: str) -> None:
    ways = [
        identify({b"x-conversation-id": conversation_id.encode()}, request(), "default"),
        identify({b"x-session-id": conversation_id.encode()}, request(), "default"),
        identify({}, request(model="claude-code:" + conversation_id), "default"),
        identify({}, request(conversation_id=conversation_id), "default"),
        identify({}, request(metadata={"conversation_id": conversation_id}), "default"),
    ]
    assert {way.id for way in ways} == {conversation_id}


@given(st.binary(min_size=1, max_size=CONVERSATION_ID_MAX))
def test_any_header_bytes_are_an_id(raw: bytes) -> None:
    assert identify({b"x-conversation-id": raw}, request(), "default").id == decode_id(raw)


@given(ids, ids)
def test_different_ids_are_different_conversations(one: str, other: str) -> None:
    same = ConversationKey("default", one).name == ConversationKey("default", other).name
    assert same == (one == other)


@given(any_text)
def test_an_answers_header_is_one_line_and_keeps_all_else(conversation_id: str) -> None:
    value = header_value(conversation_id)
    assert not re.search(rb"[\x00-\x1f\x7f]", value)
    kept = re.sub(r"[\x00-\x1f\x7f]", lambda m: f"%{ord(m[0]):02X}", conversation_id)
    assert value == kept.encode("utf-8", "surrogatepass")


@given(any_text)
def test_any_id_has_a_name_that_is_safe_in_paths(conversation_id: str) -> None:
    name = ConversationKey("default", conversation_id).name
    assert re.fullmatch(r"conv(-[a-z0-9]+)*-[a-z2-7]{10}", name)
    assert len(name) <= 46
