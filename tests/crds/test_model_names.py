"""Model names and their suffixes: the router offers what the worker can resolve, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.model_names import RESERVED, Model, model_ids, resolve, split

MODELS = {"claude-code-opus": "opus", "team/big": "big-model", "odd-tools": "odd"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("claude-code", Model("m", "own")),
        ("claude-code-tools", Model("m", "both")),
        ("claude-code-client", Model("m", "client")),
        ("claude-code-opus", Model("opus", "own")),
        ("claude-code-opus-tools", Model("opus", "both")),
        ("team/big-client", Model("big-model", "client")),
        ("odd-tools", Model("odd", "own")),
        ("odd-tools-tools", Model("odd", "both")),
        *(
            (name, None)
            for name in ("", "-tools", "gpt", "odd", "claude-code-client-tools", "Claude-code", "claude-code-x")
        ),
    ],
)
def test_what_a_name_means(name: str, expected: Model | None) -> None:
    assert resolve(name, model="m", models=MODELS, tools="own") == expected


@pytest.mark.parametrize("tools", ["own", "both", "client"])
def test_a_name_without_a_suffix_has_the_tools_that_are_set(tools: str) -> None:
    for name, suffixed in (("claude-code", "claude-code-client"), ("claude-code-opus", "claude-code-opus-client")):
        plain = resolve(name, model="", models=MODELS, tools=tools)
        assert plain is not None
        assert plain.tools == tools
        chosen = resolve(suffixed, model="", models=MODELS, tools=tools)
        assert chosen == Model(plain.model, "client")


def test_a_name_whose_meaning_is_fixed_cannot_be_given_another() -> None:
    models = dict.fromkeys(RESERVED, "hijacked")
    assert {resolve(name, model="m", models=models, tools="own") for name in RESERVED} == {
        Model("m", "own"), Model("m", "both"), Model("m", "client"),
    }  # fmt: skip
    assert model_ids(models) == ("claude-code", "claude-code-tools", "claude-code-client")


def test_the_three_come_first_in_the_list() -> None:
    assert model_ids(MODELS) == ("claude-code", "claude-code-tools", "claude-code-client", *MODELS)


@given(st.lists(st.sampled_from(["claude-code", "opus", "-tools", "-client", "x"])).map("".join))
def test_what_is_offered_can_be_resolved(name: str) -> None:
    models = {"opus": "o", "x-tools": "y"}
    assert (split(name, models) is not None) == (resolve(name, model="", models=models, tools="own") is not None)
    assert all(split(listed, models) for listed in model_ids(models))
