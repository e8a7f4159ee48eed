"""Budgets and what was spent, on a clock of the test's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from claude_crds.views import Budget
from claude_router.gateway.budgets import Standing, judge, over_ceiling
from claude_router.gateway.scan import Counted
from claude_router.gateway.spending import Spending


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOW = at("2028-02-29T23:59:59")


@pytest.mark.parametrize(("spent", "standing"), [
    (0, Standing.OK), (7.99, Standing.OK), (8, Standing.NEAR), (9.99, Standing.NEAR), (10, Standing.EXCEEDED),
    (50, Standing.EXCEEDED),
])  # fmt: skip
def test_how_a_budget_stands(spent: float, standing: Standing) -> None:
    assert judge(spent, Budget(usd=10, warn_percent=80), NOW).standing is standing


@pytest.mark.parametrize(("period", "start", "resets"), [
    ("day", "2028-02-29", "2028-03-01"), ("month", "2028-02-01", "2028-03-01"), ("", "2028-02-01", "2028-03-01"),
])  # fmt: skip
def test_periods_are_of_utc(period: str, start: str, resets: str) -> None:
    judged = judge(0, Budget(usd=1, period=period) if period else None, NOW)
    assert (judged.start, judged.resets) == (at(start), at(resets))
    assert judge(5, Budget(usd=1, period="day"), judged.resets).start == judged.resets


def test_without_a_budget_all_is_well() -> None:
    assert judge(1e9, None, NOW).standing is Standing.OK
    assert not over_ceiling(1e9, None, 100)
    assert not over_ceiling(1e9, Budget(usd=1), 0)
    assert [over_ceiling(usd, Budget(usd=1), 150) for usd in (1.4, 1.5)] == [False, True]


def test_spending_is_summed_by_days_and_forgets_old_ones() -> None:
    spending = Spending()
    heard: list[str] = []
    spending.listen(heard.append)
    for days in (50, 10, 1, 0, 0):
        spending.add("red", NOW - timedelta(days=days).total_seconds(), Counted(10, 1, 5, 2, 3), 1.5)
    spending.add("blue", NOW, Counted(1), 9.0)
    assert heard == ["red"] * 5 + ["blue"]
    assert spending.since("red", at("2028-02-29")).cost_usd == 3.0
    month = spending.since("red", at("2028-02-01"))
    assert (month.requests, month.input_tokens, month.output_tokens, month.cached_tokens) == (4, 80, 4, 20)
    assert spending.since("red", 0.0).requests == 4
    assert spending.since("green", 0.0).requests == 0


def test_it_goes_on_from_what_was_spent_earlier() -> None:
    before = Spending()
    before.add("red", NOW, Counted(10, 1), 1.5)
    after = Spending([("red", "2028-02-29", before.since("red", NOW))])
    after.add("red", NOW, Counted(10, 1), 1.5)
    assert after.since("red", NOW).cost_usd == 3.0
