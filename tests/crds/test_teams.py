"""What teams may be called, when their periods begin and end, and which models they may ask for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.teams import TeamNameError, bounds, may_ask_for, team_name


@pytest.mark.parametrize("name", ["a", "payments", "team-7", "a.b", "x" * 63])
def test_names(name: str) -> None:
    assert team_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a/b", "größe", "x" * 64, "a\n"])
def test_what_is_no_name_is_not_repeated(name: str) -> None:
    with pytest.raises(TeamNameError) as refused:
        team_name(name)
    assert len(name) < 3 or name not in str(refused.value)


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("day", at(2030, 1, 31, 12), at(2030, 1, 31), at(2030, 2, 1)),
        ("day", at(2030, 12, 31), at(2030, 12, 31), at(2031, 1, 1)),
        ("month", at(2030, 1, 31, 12), at(2030, 1, 1), at(2030, 2, 1)),
        ("month", at(2028, 2, 29), at(2028, 2, 1), at(2028, 3, 1)),
        ("month", at(2030, 12, 1), at(2030, 12, 1), at(2031, 1, 1)),
        ("quarter", at(2030, 4, 2), at(2030, 4, 1), at(2030, 5, 1)),
    ],
)
def test_periods(period: str, now: float, start: float, end: float) -> None:
    assert bounds(period, now) == (start, end)


@given(st.sampled_from(["day", "month"]), st.floats(min_value=0, max_value=4e9))
def test_a_period_holds_its_moment_and_the_next_begins_where_it_ends(period: str, now: float) -> None:
    start, end = bounds(period, now)
    assert start <= now < end
    assert bounds(period, end)[0] == end
    assert bounds(period, start) == (start, end)


OFFERED = ("claude-code-opus", "mine-tools")


@pytest.mark.parametrize(
    ("model", "allowed", "answer"),
    [
        ("claude-code-opus", (), True),
        ("anything", (), True),
        ("claude-code", ("claude-code",), True),
        ("claude-code-tools", ("claude-code",), True),
        ("claude-code-opus-client", ("claude-code-opus",), True),
        ("claude-code-opus", ("claude-code",), False),
        ("claude-code", ("claude-code-opus",), False),
        ("claude-code", ("claude-code-tools",), False),
        ("claude-code-tools", ("claude-code-tools",), True),
        ("mine-tools", ("mine-tools",), True),
        ("mine", ("mine-tools",), False),
        ("unknown", ("claude-code",), False),
    ],
)
def test_models(model: str, allowed: tuple[str, ...], answer: bool) -> None:
    assert may_ask_for(model, allowed, OFFERED) is answer
