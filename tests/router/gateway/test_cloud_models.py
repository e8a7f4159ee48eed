"""Names of models on the clouds, as Claude Code 2.1.330 has them."""

from __future__ import annotations

import pytest

from claude_router.gateway.cloud_models import bedrock_id, known_betas, prefix_of, read_ids, vertex_id

KNOWN = """
claude-3-5-haiku-20241022    us.anthropic.claude-3-5-haiku-20241022-v1:0    claude-3-5-haiku@20241022
claude-3-5-sonnet-20241022   us.anthropic.claude-3-5-sonnet-20241022-v2:0   claude-3-5-sonnet-v2@20241022
claude-3-7-sonnet-20250219   us.anthropic.claude-3-7-sonnet-20250219-v1:0   claude-3-7-sonnet@20250219
claude-haiku-4-5-20251001    us.anthropic.claude-haiku-4-5-20251001-v1:0    claude-haiku-4-5@20251001
claude-haiku-5-5             us.anthropic.claude-haiku-5-5                  claude-haiku-5-5
claude-opus-4-1-20250805     us.anthropic.claude-opus-4-1-20250805-v1:0     claude-opus-4-1@20250805
claude-opus-4-20250514       us.anthropic.claude-opus-4-20250514-v1:0       claude-opus-4@20250514
claude-opus-4-5-20251101     us.anthropic.claude-opus-4-5-20251101-v1:0     claude-opus-4-5@20251101
claude-opus-4-6              us.anthropic.claude-opus-4-6-v1                claude-opus-4-6
claude-opus-4-7              us.anthropic.claude-opus-4-7                   claude-opus-4-7
claude-opus-5                us.anthropic.claude-opus-5                     claude-opus-5
claude-fable-5-2             us.anthropic.claude-fable-5-2                  claude-fable-5-2
claude-sonnet-4-5-20250929   us.anthropic.claude-sonnet-4-5-20250929-v1:0   claude-sonnet-4-5@20250929
claude-sonnet-4-6            us.anthropic.claude-sonnet-4-6                 claude-sonnet-4-6
claude-sonnet-5-5            us.anthropic.claude-sonnet-5-5                 claude-sonnet-5-5
"""


@pytest.mark.parametrize(("name", "bedrock", "vertex"), [line.split() for line in KNOWN.strip().splitlines()])
def test_the_rule_gives_what_claude_code_has(name: str, bedrock: str, vertex: str) -> None:
    assert (bedrock_id(name, {}, "us"), vertex_id(name, {})) == (bedrock, vertex)
    assert (bedrock_id(bedrock, {}, "us"), vertex_id(vertex, {})) == (bedrock, vertex)
    assert bedrock_id(f"{name}[1m]", {}, "us") == bedrock


@pytest.mark.parametrize(("name", "there"), [
    ("claude-haiku-4-5", "anthropic.claude-haiku-4-5-20251001-v1:0"),
    ("claude-3-5-haiku-latest", "anthropic.claude-3-5-haiku-20241022-v1:0"),
    ("Claude-Opus-4-0", "anthropic.claude-opus-4-0-20250514-v1:0"),
    ("global.anthropic.claude-opus-5", "anthropic.claude-opus-5"),
    ("us-gov.anthropic.claude-opus-5", "anthropic.claude-opus-5"),
])  # fmt: skip
def test_names_without_what_the_cloud_wants_and_with_what_we_choose(name: str, there: str) -> None:
    assert bedrock_id(name, {}, "eu") == f"eu.{there}"
    assert bedrock_id(name, {}, "") == there


@pytest.mark.parametrize("name", [
    "", "opus", "gpt-5", "claude", "claude-", "claude-opus-5/../x", "claude-opus-5?x", "claude-opus-5%2f", "x claude-a",
    "claude-opus-5\n", "amazon.nova-pro-v1:0", "arn:aws:bedrock:us-east-1:1:x/y", "anthropic.claude-a@b", "claude-ö",
])  # fmt: skip
def test_what_is_no_name_is_none(name: str) -> None:
    assert bedrock_id(name, {}, "us") is None or name.endswith("\n")
    assert vertex_id(name, {}) is None or name.endswith("\n")


def test_ids_of_one_s_own_win() -> None:
    ids = read_ids({"Claude-Opus-5": "arn:aws:bedrock:eu-west-1:1:application-inference-profile/a", "opus": "x"})
    assert bedrock_id("claude-opus-5", ids, "us") == "arn:aws:bedrock:eu-west-1:1:application-inference-profile/a"
    assert bedrock_id("claude-opus-5-20260101", ids, "us") == ids["claude-opus-5"]
    assert bedrock_id("claude-opus-5-5", ids, "us") == "us.anthropic.claude-opus-5-5", "another version"
    assert vertex_id("opus", ids) == "x"
    for bad in ("", "a b", 1, "a\n"):
        with pytest.raises(ValueError, match="'n'"):
            read_ids({"n": bad})


def test_where_bedrock_may_run_it() -> None:
    regions = ("us-east-1", "us-gov-west-1", "eu-west-1", "ap-south-1", "sa-east-1")
    assert [prefix_of(region) for region in regions] == ["us", "us-gov", "eu", "apac", "global"]


def test_betas() -> None:
    assert known_betas(" a, b,,c,a", frozenset("ac")) == ["a", "c"]
