"""What models cost, and which names are theirs."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from claude_crds.settings import SettingsError
from claude_crds.views import PoolSpec
from claude_router.gateway import prices
from claude_router.gateway.models import meant, permits
from claude_router.gateway.scan import Counted

TABLE = prices.read()
MILLION = Counted(input=1_000_000, output=1_000_000)


@pytest.mark.parametrize(("model", "name"), [
    ("claude-opus-4-20250514", "claude-opus-4"), ("claude-opus-4-1-20250805", "claude-opus-4-1"),
    ("claude-opus-4-5", "claude-opus-4-5"), ("claude-opus-5", "claude-opus-5"), ("claude-opus-5-5", "claude-opus-5-5"),
    ("claude-opus-5-9", ""), ("claude-opus-50", ""), ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
    ("claude-sonnet-5[1m]", "claude-sonnet-5"), ("anthropic/claude-sonnet-5", "claude-sonnet-5"),
    ("us.anthropic.claude-3-5-haiku-20241022-v1:0", "claude-3-5-haiku"),
    ("claude-3-5-haiku@20241022", "claude-3-5-haiku"),
    ("Claude-3-5-Haiku-Latest", "claude-3-5-haiku"), ("gpt-x", ""), ("", ""),
])  # fmt: skip
def test_a_model_is_priced_by_its_own_entry(model: str, name: str) -> None:
    assert TABLE.name_of(model) == name


def test_the_table_is_dated_and_whole() -> None:
    assert date.fromisoformat(TABLE.date) <= date(2026, 12, 31)
    for entry in TABLE.models.values():
        assert 0 < entry.cache_read < entry.input < entry.cache_write_5m < entry.cache_write_1h < entry.output


@pytest.mark.parametrize(("model", "counted", "usd"), [
    ("claude-opus-5", MILLION, 30.0),
    ("claude-opus-5", MILLION._replace(fast=True), 60.0),
    ("claude-opus-5", MILLION._replace(us=True), 33.0),
    ("claude-opus-5", Counted(searches=2), 0.02),
    ("claude-haiku-4-5", Counted(0, 0, 1_000_000, 1_000_000, 1_000_000), 0.1 + 1.25 + 2),
    ("claude-haiku-5-5", Counted(input=50_000, cache_read=50_000), 0.005 + 0.0005),
    ("claude-haiku-5-5", Counted(input=50_001, cache_read=50_000), 0.0250005 + 0.0025),
    ("nobody-knows", MILLION, 90.0),
])  # fmt: skip
def test_costs(model: str, counted: Counted, usd: float) -> None:
    cost, known = TABLE.cost(model, counted)
    assert cost == pytest.approx(usd)
    assert known == (model != "nobody-knows")


FREE = '{"input": -1, "output": 1, "cacheWrite5m": 1, "cacheWrite1h": 1, "cacheRead": 1}'


@pytest.mark.parametrize("text", [
    "", "{}", '{"date": "x", "models": {}}', '{"date": "x", "models": {"a": {"input": 1}}}',
    '{"date": "x", "models": {"a": ' + FREE + "}}",
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(SettingsError, match="PRICES_FILE"):
        prices.read(tmp_path / "prices.json")


POOL = PoolSpec(models={"claude-code-opus": "opus", "fixed": "claude-opus-4-5", "plan": "opusplan"})


@pytest.mark.parametrize(("allowed", "words"), [
    ((), None), (("claude-code-opus",), ("opus",)), (("claude-code-opus-tools",), ("opus",)), (("claude-code",), None),
    (("fixed", "claude-code-opus"), ("claude-opus-4-5", "opus")), (("plan",), ("opus", "sonnet")),
    (("claude-sonnet-5",), ("claude-sonnet-5",)),
])  # fmt: skip
def test_what_a_teams_models_mean(allowed: tuple[str, ...], words: tuple[str, ...] | None) -> None:
    assert meant(allowed, POOL) == words


def test_a_pool_with_a_model_says_what_claude_code_is() -> None:
    assert meant(("claude-code",), PoolSpec(model="sonnet")) == ("sonnet",)


@pytest.mark.parametrize(("word", "model", "fits"), [
    ("opus", "claude-opus-5-5", True), ("opus", "claude-3-opus-20240229", True), ("opus", "claude-sonnet-5", False),
    ("opus", "opus", True), ("claude-opus-5", "claude-opus-5[1m]", True), ("claude-opus-5", "claude-opus-5-5", False),
    ("claude-opus-4-5", "us.anthropic.claude-opus-4-5-20251101-v1:0", True),
    ("claude-opus-4", "claude-opus-4-20250514", True), ("sonnet", "x/claude-opus-5", False), ("opus", "octopus", False),
    ("opus", "@" * 100_000, False), ("haiku", "claude-opus-5@x-haiku", False), ("opus", "claude-opus-5@20260101", True),
    ("haiku", "claude-opus-5:claude-haiku-4-5", False),
    ("claude-3-5-sonnet", "claude-3-5-sonnet-v2@20241022", True), ("claude-opus-5", "claude-opus-5:x/y", False),
])  # fmt: skip
def test_which_models_a_word_permits(word: str, model: str, fits: bool) -> None:
    assert permits((word,), model) == fits
