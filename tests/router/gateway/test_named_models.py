"""Which models a request names, and that it names each once."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_router.gateway import named_models
from claude_router.gateway.named_models import models_in, refuse_ambiguous
from claude_worker.openai.errors import ApiError


@pytest.mark.parametrize(("body", "models"), [
    (b'{"model": "a"}', ["a"]), (b'{"tools": null, "model": "a"}', ["a"]), (b'{"model": "a", "tools": []}', ["a"]),
    (b'{"model": "a", "tools": [{"name": "x"}, {"model": "b"}, {"mod\\u0065l": "c"}, {"model": null}]}', [*"abc"]),
    (b'{"model": "a", "tools": [{"input_schema": {"properties": {"model": {}}}}]}', ["a"]),
])  # fmt: skip
def test_its_own_and_those_of_its_tools(body: bytes, models: list[str]) -> None:
    assert models_in(body) == models
    refuse_ambiguous(body)


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", b'{"model": 1}', b'{"model": "a", "tools": {"model": "b"}}', b'{"model": "a"',
    b'{"model": "a", "tools": ["model"]}', b'{"model": "a", "tools": [{"model": 1}]}',
    b'{"model": "' + b"x" * 201 + b'"}',
    b'{"model": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
])  # fmt: skip
def test_what_names_none_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="not valid"):
        models_in(body)


PAIRS = st.recursive(
    st.sampled_from(["model", "tools", 'a "model" \\', 1, None]),
    lambda inner: (
        st.lists(st.tuples(st.sampled_from(["model", "tools", "x"]), inner), max_size=3).map(tuple)
        | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


def written(value: Any) -> str:
    """As JSON; tuples of pairs as objects, whose keys may come twice, and now and then with an escape."""
    if isinstance(value, tuple):
        keys = (json.dumps(key).replace("o", "\\u006F") if len(written(inner)) % 3 else json.dumps(key)
                for key, inner in value)  # fmt: skip
        return "{" + ",".join(f"{key}: {written(inner)}" for key, (_, inner) in zip(keys, value, strict=True)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


@given(st.lists(st.tuples(st.sampled_from(["model", "x", "y"]), PAIRS), max_size=4), st.integers(0, 4))
def test_a_model_that_is_named_twice_is_seen_wherever_others_are(pairs: list[tuple[str, Any]], place: int) -> None:
    pairs = [(key, inner) for key, inner in pairs if key != "model" or isinstance(inner, str)]
    pairs.insert(place, ("model", "claude-opus-5"))
    body = written(tuple(pairs)).encode()
    models_in(body)
    if sum(key == "model" for key, _ in pairs) == 1:
        refuse_ambiguous(body)
    else:
        with pytest.raises(ApiError, match="twice"):
            refuse_ambiguous(body)


@pytest.mark.parametrize("text", [
    '{"model": "a", "tools": [{"model": "b", "model": "c"}]}',
    '{"model": "a", "tools": [{"model": "b"}], "x": 1, "tools": []}',
    '{"model": "a", "tools": [{"x": {"model": 1}, "model": "b", "y": {"model": 2}, "m\\u006fdel": "c"}]}',
])  # fmt: skip
def test_tools_and_their_models_are_named_once(text: str) -> None:
    with pytest.raises(ApiError, match="twice"):
        refuse_ambiguous(text.encode())


@pytest.mark.parametrize("head", [
    b'{"model":"a","tools":[', b'{"model":"a","x":{"model":1},"b":[', b'{"x":{"model":1},"model":"a","b":[',
    b'{"model":"a","tools":[{"model":"b"},',
])  # fmt: skip
def test_many_small_things_take_no_memory_but_their_own(head: bytes) -> None:
    body = head + b"{}," * 1_000_000 + b"{}]}"
    tracemalloc.start()
    try:
        with contextlib.suppress(ApiError):  # the last has too many tools
            models_in(body)
            refuse_ambiguous(body)
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 4 * len(body)


def test_what_would_take_long_to_be_sought_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_models, "_LARGEST_SOUGHT", 40)
    refuse_ambiguous(b'{"model": "a", "x": {"model": 1}, "y": "a long text after it"}')
    with pytest.raises(ApiError, match="does not come first"):
        refuse_ambiguous(b'{"x": {"model": 1}, "model": "a", "y": "a long text after it"}')
    with pytest.raises(ApiError, match="more than 10000 times"):
        refuse_ambiguous(b'{"model": "a", "x": [' + b'"model",' * 10_000 + b"1]}")
