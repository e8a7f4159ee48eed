"""Settings from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from claude_crds.settings import (
    SettingsError,
    boolean,
    choice,
    integer,
    load,
    mapping,
    milliseconds,
    setting,
    table,
    words,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    port: int = setting("PORT", 3000, integer(1, 65535), "port to listen on")
    wait: float = setting("WAIT_MS", 1.5, milliseconds(0, 10_000), "how long to wait")
    mode: str = setting("MODE", "a", choice("a", "b"), "which mode")
    keys: tuple[str, ...] = setting("KEYS", (), words(), "accepted keys", secret=True)
    on: bool = setting("ON", False, boolean(), "whether")
    models: Mapping[str, str] = setting("MODELS", {"x": "y"}, mapping(), "names")


def test_values_are_read_and_unset_or_empty_ones_keep_their_default() -> None:
    assert load(Sample, {"PORT": ""}) == Sample()
    env = {"PORT": "80", "WAIT_MS": "250", "MODE": "b", "KEYS": "k1, k2,", "ON": "yes", "MODELS": "a=b, c=d"}
    assert load(Sample, env) == Sample(80, 0.25, "b", ("k1", "k2"), True, {"a": "b", "c": "d"})
    assert load(Sample, {"MODELS": '{"a": "b"}'}).models == {"a": "b"}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PORT": "0"}, "PORT='0': must be a whole number from 1 to 65535"),
        ({"PORT": "x"}, "PORT='x': must be a whole number from 1 to 65535"),
        ({"WAIT_MS": "-1"}, "WAIT_MS='-1': must be milliseconds, a whole number from 0 to 10000"),
        ({"MODE": "c"}, "MODE='c': must be one of a, b"),
        ({"ON": "maybe"}, "ON='maybe': must be true or false"),
        ({"MODELS": "a"}, "MODELS='a': must be name=value pairs with commas between, or a JSON object of strings"),
        ({"MODELS": "[1]"}, "MODELS='[1]': must be name=value pairs"),
        ({"MODELS": '{"a": 1}'}, "must be name=value pairs"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(env: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Sample, env)
    assert message in str(caught.value)


def test_secrets_are_not_shown() -> None:
    assert "k1" not in repr(load(Sample, {"KEYS": "k1"}))


def test_the_table_documents_every_setting() -> None:
    rows = table(Sample)
    assert rows[0] == ("PORT", "3000", "a whole number from 1 to 65535", "port to listen on")
    assert [r[1] for r in rows[1:]] == ["1500", "a", "", "false", "x=y"]
