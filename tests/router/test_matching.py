"""Requests without an id: whose history they continue."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_router.local.records import Record
from claude_router.local.store import Store
from claude_router.local.tips import LocalTips
from claude_router.matching import Matching, histories
from claude_router.sessions import ConversationKey
from claude_worker.openai.request import ChatRequest, Message, parse
from claude_worker.prefixes import EMPTY, extend, prefixes
from router.fakes import FakeSessions

Said = tuple[tuple[str, str], ...]


def request(*messages: Any, **more: Any) -> ChatRequest:
    """A request with these messages: `u:…`, `a:…`, `s:…`, or objects."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    bodies = [{"role": roles[m[0]], "content": m[2:]} if isinstance(m, str) else m for m in messages]
    return parse(msgspec.json.encode({"model": "claude-code", "messages": bodies, **more}))


def tip(*messages: Any) -> str:
    return extend(EMPTY, request(*messages, "u:x").turns()[:-1])


CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ("c1", "c2")],
}
RESULTS = [{"role": "tool", "tool_call_id": i, "content": "r"} for i in ("c2", "c1")]


def test_histories_end_with_an_answer() -> None:
    assert histories(request("u:one")) == []
    assert histories(request("s:be", "u:one", "u:two")) == []
    asked = request("s:be", "u:one", "a:first", "u:two", "a:second", "u:three")
    assert histories(asked) == [tip("u:one", "a:first"), tip("u:one", "a:first", "u:two", "a:second")]
    assert histories(request("s:another", *(["u:one", "a:first", "u:two"]))) == histories(asked)[:1]


def test_histories_with_calls_of_tools() -> None:
    asked = request("u:one", CALLS, *RESULTS, tools=[])
    hashes = prefixes(asked.turns())
    assert histories(asked) == hashes[1:3]
    assert hashes[1] == extend(EMPTY, [*request("u:one").turns(), asked.messages[1]])
    assert histories(request("u:one", CALLS, *RESULTS[::-1])) == histories(asked), "in any order"
    more = histories(request("u:one", CALLS, *RESULTS, "a:done", "u:two"))
    assert more[:3] == hashes[1:]
    assert len(more) == 4


def test_what_clients_change_on_their_own() -> None:
    plain = histories(request("u:one", "a:the first", "u:two"))
    parts = {"role": "assistant", "content": [{"type": "text", "text": " the first\n"}]}
    assert histories(request("u:one", parts, "u:two")) == plain
    empty = {"role": "assistant", "content": ""}
    assert histories(request("u:one", "a:the first", empty, "u:two")) == plain


def test_find_and_note() -> None:
    sessions = FakeSessions()
    matching = Matching(sessions)
    key = ConversationKey("default", "conv_1")
    for wrong in ("", "x", tip("u:one").upper() + "!"):
        matching.note(key, wrong)
    assert sessions.tips == []
    matching.note(key, tip("u:one", "a:first"))
    assert matching.find("default", request("u:one", "a:first", "u:two")) == key
    assert matching.find("other", request("u:one", "a:first", "u:two")) is None
    assert matching.find("default", request("u:one", "a:another", "u:two")) is None
    assert matching.find("default", request("u:one")) is None


@pytest.mark.parametrize(("length", "matched"), [(9_998, True), (10_002, False)])
def test_a_history_without_end_is_not_hashed(length: int, matched: bool) -> None:
    messages = [Message(role=("user", "assistant")[i % 2], content="x") for i in range(length)]
    assert bool(histories(ChatRequest(messages=[*messages, Message(role="user", content="y")]))) is matched


def test_five_hundred_messages_cost_little() -> None:
    asked = request(*itertools.chain(*((f"u:{i}{'x' * 200}", f"a:{i}{'y' * 800}") for i in range(250))), "u:z")
    best = min(_timed(asked) for _ in range(5))
    assert best < 0.01  # it takes 2 ms


def _timed(asked: ChatRequest) -> float:
    began = time.perf_counter()
    histories(asked)
    return time.perf_counter() - began


# -- the law: two clients never share a conversation


@dataclass
class Records:
    """What LocalTips needs of a store."""

    records: dict[str, Record] = field(default_factory=dict)

    def note_tips(self, name: str, tips: str) -> None:
        self.records[name].tips = tips


class Sessions(FakeSessions):
    """Conversations as the local ones keep their tips; they survive a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Records()
        self.restart()

    def restart(self) -> None:
        self.local = LocalTips(cast(Store, self.store))

    def begin(self, key: ConversationKey) -> None:
        self.store.records[key.name] = Record(key.tenant, key.id, "volume", 1.0, 1.0)

    def remove(self, key: ConversationKey) -> None:
        if key.name in self.store.records:
            self.local.forget(key.name)
            del self.store.records[key.name]

    def note_tip(self, key: ConversationKey, tip: str) -> None:
        self.local.note(key, tip)

    def find_by_tip(self, tenant: str, tips: Any) -> ConversationKey | None:
        return self.local.find(tenant, tips)


class World:
    """Clients that know no ids, and a model with few words."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.matching = Matching(self.sessions)
        self.told: dict[int, list[str]] = {}
        self.clients: dict[ConversationKey, int] = {}
        self.number = itertools.count()

    def turn(self, client: int, back: int, says: str, *, tenant: str = "default") -> ConversationKey:
        """The client goes back some turns, and says that; a conversation must be its own."""
        told = self.told.setdefault(client, [])
        del told[max(0, len(told) - 2 * back) :]
        told.append(f"u:{says}")
        asked = request(*told)
        key = self.matching.find(tenant, asked)
        if key is None:
            key = ConversationKey(tenant, f"conv_{next(self.number)}")
            self.sessions.begin(key)
        assert self.clients.setdefault(key, client) == client, "two clients share it"
        told.append(f"a:{len(told) % 3}")
        self.matching.note(key, tip(*told))
        return key


def test_one_client_goes_on_back_and_on_again() -> None:
    world = World()
    first = world.turn(1, 0, "hello")
    assert [world.turn(1, 0, "and"), world.turn(1, 0, "then")] == [first, first]
    assert world.turn(1, 2, "instead") == first
    world.sessions.restart()
    assert world.turn(1, 0, "again") == first
    assert world.turn(1, 9, "anew") != first


def test_clients_that_begin_with_the_same_words() -> None:
    world = World()
    first, second = world.turn(1, 0, "hello"), world.turn(2, 0, "hello")
    assert first != second
    third = world.turn(1, 0, "and")
    assert third not in (first, second), "whose it is cannot be told"
    assert world.turn(1, 0, "then") == third
    fourth = world.turn(2, 0, "or")
    assert fourth not in (first, second, third)
    assert world.turn(2, 0, "else") == fourth
    assert world.turn(3, 0, "hello") not in (first, second, third, fourth)


def test_a_deleted_conversation_is_not_replaced_by_one_that_began_alike() -> None:
    world = World()
    first, second = world.turn(1, 0, "hello"), world.turn(2, 0, "hello")
    world.sessions.remove(second)
    world.sessions.restart()
    assert world.turn(2, 0, "and") not in (first, second)
    world.sessions.remove(first)
    assert world.turn(1, 0, "and") not in (first, second)


def test_thirty_two_turns_and_more() -> None:
    world = World()
    first = world.turn(1, 0, "hello")
    assert {world.turn(1, 0, f"more {i}") for i in range(50)} == {first}
    assert world.turn(1, 20, "back") == first
    assert world.turn(2, 0, "hello") != first
    assert world.turn(2, 0, "more 0") != first


actions = st.one_of(
    st.tuples(st.just("turn"), st.integers(0, 2), st.sampled_from([0, 0, 0, 1, 2, 9]), st.sampled_from("xy")),
    st.tuples(st.just("remove"), st.integers(0, 2), st.integers(0, 5), st.just("")),
)


@given(st.lists(actions, max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_two_clients_ever_share(done: list[tuple[str, int, int, str]]) -> None:
    world = World()
    for act, client, number, says in done:
        if act == "turn":
            world.turn(client, number, says, tenant="u" if client == 2 else "t")
        elif own := [key for key, of in world.clients.items() if of == client]:
            world.sessions.remove(own[number % len(own)])
