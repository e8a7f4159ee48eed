"""To which conversation a tip leads, and when to none any more."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_router.tips import MOST_TIPS, TipIndex, entries, holds, is_tip, merged


def tip(n: int) -> str:
    return f"{n:032x}"


def text(*numbers: int) -> str:
    return " ".join(tip(n) for n in numbers)


@pytest.mark.parametrize("wrong", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, tip(1) + "\n", tip(1) + "!"])
def test_what_is_no_tip(wrong: str) -> None:
    assert not is_tip(wrong)
    assert is_tip(tip(1))


def test_what_cannot_be_read_is_left_out() -> None:
    mixed = f"x {tip(1)} {tip(2)}! {tip(3)}!! {tip(4)}5 \n{tip(5)}\t"
    assert entries(mixed) == {tip(1): False, tip(2): True, tip(5): False}
    assert entries("") == {}


def test_the_text_is_bounded() -> None:
    found = ""
    for n in range(100):
        found = merged(found, {tip(n): True})
    assert list(entries(found)) == [tip(n) for n in range(100 - MOST_TIPS, 100)]
    assert len(found) == 1087
    assert len(entries(text(*range(1000)))) == MOST_TIPS, "whoever has written it"


def test_merging_keeps_order_and_marks() -> None:
    found = merged(text(1, 2), {tip(3): False, tip(1): True})
    assert found == f"{tip(1)}! {tip(2)} {tip(3)}"
    assert merged(found, {tip(1): False}) == found
    assert holds(found, {tip(1): False, tip(3): False})
    assert holds(found, {tip(1): True})
    assert not holds(found, {tip(3): True})
    assert not holds(found, {tip(4): False})


def test_the_longest_known_history_decides() -> None:
    index = TipIndex()
    index.put("t", "a", text(1, 2))
    index.put("t", "b", text(3))
    assert index.find("t", [tip(1)]) == "a"
    assert index.find("t", [tip(1), tip(3)]) == "b"
    assert index.find("t", [tip(3), tip(2), tip(9)]) == "a", "what follows is not known"
    assert index.find("t", [tip(9)]) == ""
    assert index.find("t", []) == ""


def test_a_shared_tip_hides_the_shorter_ones() -> None:
    index = TipIndex()
    index.put("t", "a", text(1, 2))
    index.put("t", "b", text(2))
    assert index.find("t", [tip(1), tip(2)]) == ""
    assert index.find("t", [tip(2)]) == ""
    assert index.find("t", [tip(1)]) == "a"


def test_tenants_know_nothing_of_each_other() -> None:
    index = TipIndex()
    index.put("t", "a", text(1))
    assert index.find("u", [tip(1)]) == ""
    assert not index.known("u", tip(1))
    index.put("u", "b", text(1))
    assert (index.find("t", [tip(1)]), index.find("u", [tip(1)])) == ("a", "b")
    index.drop("a")
    assert index.find("u", [tip(1)]) == "b"


def test_what_a_deleted_conversation_had_leads_nowhere() -> None:
    index = TipIndex()
    index.put("t", "a", text(1, 2))
    index.put("t", "b", text(1))
    index.drop("b")
    assert index.find("t", [tip(1)]) == "", "it was the other's, too"
    index.drop("a")
    index.drop("a")
    assert index.known("t", tip(2))
    index.put("t", "c", text(2, 3))
    assert index.find("t", [tip(2)]) == ""
    assert index.find("t", [tip(2), tip(3)]) == "c"


def test_a_mark_spoils_for_good() -> None:
    index = TipIndex()
    index.put("t", "a", text(1, 2))
    index.put("t", "a", f"{tip(1)}! {tip(2)}")
    assert index.find("t", [tip(1)]) == ""
    assert index.find("t", [tip(2)]) == "a"
    again = TipIndex()
    again.put("t", "a", f"{tip(1)}! {tip(2)}")
    assert again.find("t", [tip(1)]) == ""


def test_tips_without_owner_are_remembered_up_to_a_number() -> None:
    index = TipIndex(most_spent=3)
    for n in range(5):
        index.put("t", "a", tip(n))
    assert [index.known("t", tip(n)) for n in range(5)] == [False, True, True, True, True]


marks = st.dictionaries(st.integers(0, 5), st.booleans(), max_size=4)


@given(st.lists(st.tuples(st.sampled_from("tu"), st.sampled_from("abc"), marks), max_size=25))
def test_a_tip_leads_only_to_who_alone_has_ever_had_it(changes: list[tuple[str, str, dict[int, bool]]]) -> None:
    index = TipIndex()
    now: dict[str, dict[int, bool]] = {}
    ever: dict[tuple[str, int], set[str]] = {}
    spoiled: set[tuple[str, int]] = set()
    for tenant, of, tips in changes:
        name = tenant + of
        kept = {n: mark or now.get(name, {}).get(n, False) for n, mark in tips.items()}
        spoiled |= {(tenant, n) for n, mark in kept.items() if mark}
        spoiled |= {(tenant, n) for n in now.get(name, {}) if n not in kept}
        now[name] = kept
        for n in kept:
            ever.setdefault((tenant, n), set()).add(name)
        index.put(tenant, name, merged("", {tip(n): mark for n, mark in kept.items()}))
    for tenant in "tu":
        for n in range(6):
            owners = ever.get((tenant, n), set())
            alone = len(owners) == 1 and (tenant, n) not in spoiled
            assert index.find(tenant, [tip(n)]) == (owners.pop() if alone else "")


def test_a_conversation_costs_little_memory() -> None:
    tracemalloc.start()
    try:
        index = TipIndex()
        for i in range(500):
            index.put("t", f"conv-{i}", text(*(hash((i, n)) & (1 << 128) - 1 | 1 << 127 for n in range(MOST_TIPS))))
        each = tracemalloc.get_traced_memory()[0] / 500
        for i in range(500):
            index.drop(f"conv-{i}")
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert each < 7 * 1024  # the text is a sixth of it
    assert left < 3 << 20  # what is remembered of deleted ones
