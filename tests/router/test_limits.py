"""What a team may do at a time, on a clock that the test holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_router.limits import Bucket, Held, Limits, span
from claude_router.teams import TeamPolicy
from claude_worker.openai.errors import ApiError

DAY = 86_400.0


def policy(**more: Any) -> TeamPolicy:
    return TeamPolicy("red", **more)


@dataclass
class Sessions:
    """Names of the team's conversations."""

    names: set[str] = field(default_factory=set)

    def count(self, tenant: str, also: Collection[str] = ()) -> int:
        assert tenant == "red"
        return len(self.names | set(also))


def test_without_limits_nothing_is_refused_and_no_header_added() -> None:
    limits, free = Limits(), policy()
    for _ in range(1000):
        assert limits.request(free, 0.0) == {}
        assert limits.budget(free, 0.0) == {}
        held = limits.hold(free)
        held.turn(free)
        held.conversation(free, "c", Sessions().count)
    assert limits.turns("red") == 1000


def test_requests_in_a_minute_and_what_the_client_is_told() -> None:
    limits, slow = Limits(), policy(requests_per_minute=6)
    for left in range(5, -1, -1):
        headers = limits.request(slow, 100.0)
        assert headers["x-ratelimit-limit-requests"] == "6"
        assert headers["x-ratelimit-remaining-requests"] == str(left)
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    with pytest.raises(ApiError) as refused:
        limits.request(slow, 103.0)
    error = refused.value
    assert (error.status, error.code, error.headers["retry-after"]) == (429, "rate_limit_exceeded", "7")
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert limits.request(slow, 110.1)["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(ApiError):
        limits.request(slow, 110.2)


def test_one_teams_requests_are_not_anothers() -> None:
    limits = Limits()
    limits.request(TeamPolicy("red", requests_per_minute=1), 0.0)
    limits.request(TeamPolicy("blue", requests_per_minute=1), 0.0)
    with pytest.raises(ApiError):
        limits.request(TeamPolicy("red", requests_per_minute=1), 0.0)


@given(
    limit=st.integers(1, 600),
    gaps=st.lists(st.floats(0, 120, allow_nan=False), min_size=1, max_size=300),
)
def test_no_more_than_a_minutes_at_once_and_the_rate_after_it(limit: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(limit, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(limit, now)
        taken += not wait
        assert 0.0 <= wait <= 60.0 / limit + 1e-6
        assert taken <= limit + now * limit / 60.0 + 1e-6
        if wait:
            now += wait + 1e-6
            assert bucket.take(limit, now) == 0.0, "told the truth about when to come again"
            taken += 1


def test_a_clock_that_is_put_back_and_a_limit_that_changes() -> None:
    limits = Limits()
    limits.request(policy(requests_per_minute=2), 1000.0)
    limits.request(policy(requests_per_minute=2), 0.0)
    with pytest.raises(ApiError):
        limits.request(policy(requests_per_minute=2), 0.0)
    assert limits.request(policy(requests_per_minute=60), 1.0)["x-ratelimit-remaining-requests"] == "0"
    assert limits.request(policy(requests_per_minute=60), 61.0)["x-ratelimit-remaining-requests"] == "59"
    assert limits.request(policy(requests_per_minute=3), 61.0)["x-ratelimit-remaining-requests"] == "2"


def test_turns_at_a_time() -> None:
    limits, two = Limits(), policy(max_concurrent_turns=2)
    held = [limits.hold(two) for _ in range(3)]
    held[0].turn(two)
    held[1].turn(two)
    with pytest.raises(ApiError) as refused:
        held[2].turn(two)
    assert (refused.value.status, refused.value.code) == (429, "too_many_turns")
    assert int(refused.value.headers["retry-after"]) >= 1
    held[2].release()
    assert limits.turns("red") == 2
    held[0].release()
    held[0].release()
    assert limits.turns("red") == 1
    limits.hold(two).turn(two)


def _begins(limits: Limits, team: TeamPolicy, name: str, there: Sessions) -> Held | None:
    held = limits.hold(team)
    try:
        held.conversation(team, name, there.count)
    except ApiError as error:
        if error.code != "too_many_sessions":
            raise
        return None
    return held


def test_conversations_of_a_team() -> None:
    limits, two, there = Limits(), policy(max_sessions=2), Sessions({"a"})
    assert _begins(limits, two, "a", there), "one that there is is no new one"
    begun = _begins(limits, two, "b", there)
    assert begun
    assert _begins(limits, two, "c", there) is None, "b counts before it is there"
    again = _begins(limits, two, "b", there)
    assert again
    begun.release()
    assert _begins(limits, two, "c", there) is None, "the other request still begins b"
    again.release()
    assert _begins(limits, two, "c", there), "b has never come to be"


def test_at_the_limit_what_there_is_goes_on_and_a_purge_makes_room() -> None:
    limits, one, there = Limits(), policy(max_sessions=1), Sessions({"a", "b"})
    assert _begins(limits, one, "a", there)
    assert _begins(limits, one, "c", there) is None
    there.names.clear()
    assert _begins(limits, one, "c", there)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["begin", "appear", "end"])), max_size=60))
def test_there_are_never_more_conversations_than_may(steps: list[tuple[str, str]]) -> None:
    limits, three, there = Limits(), policy(max_sessions=3), Sessions()
    open_: list[tuple[str, Held]] = []
    for name, step in steps:
        if step == "begin" and (held := _begins(limits, three, name, there)):
            open_.append((name, held))
        elif step == "appear" and any(n == name for n, _ in open_):
            there.names.add(name)
        elif step == "end":
            for entry in [e for e in open_ if e[0] == name]:
                entry[1].release()
                open_.remove(entry)
        assert len(there.names) <= 3
    for _, held in open_:
        held.release()
    assert limits._teams["red"].begun == {} if open_ or "red" in limits._teams else True


def test_a_budget_that_is_near_or_spent_and_its_end() -> None:
    limits, reset = Limits(), 20 * DAY
    assert limits.budget(policy(budget="near", resets=reset), 0.0) == {"x-claude-budget": "near"}
    spent = policy(budget="exceeded", resets=reset)
    with pytest.raises(ApiError) as refused:
        limits.budget(spent, reset - 90.5)
    error = refused.value
    assert (error.status, error.code) == (429, "budget_exceeded")
    assert "1970-01-21T00:00:00Z" in error.message
    assert error.headers == {
        "x-claude-budget": "exceeded", "x-claude-budget-reset": "1970-01-21T00:00:00Z", "retry-after": "91",
        "x-should-retry": "false",
    }  # fmt: skip
    assert limits.budget(spent, reset) == {}, "the next period begins with nothing spent"


def test_a_budget_of_which_nobody_says_when_it_ends() -> None:
    with pytest.raises(ApiError) as refused:
        Limits().budget(policy(budget="exceeded", resets=float("inf")), 1e12)
    assert refused.value.headers == {"x-claude-budget": "exceeded", "x-should-retry": "false"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.85, "850ms"), (1, "1s"), (59.6, "1m0s"), (63, "1m3s"), (360, "6m0s")]
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert span(seconds) == text
