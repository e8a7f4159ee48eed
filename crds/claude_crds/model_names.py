"""Model names: a name that is offered, and with a suffix the same model with other tools.

claude-code           its own tools, or what the setting TOOLS says
claude-code-tools     its own and the client's
claude-code-client    the client's only
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, cast, get_args

Tools = Literal["own", "both", "client"]
"""Whose tools the model has: Claude Code's own, the client's, or both."""

TOOLS: tuple[Tools, ...] = get_args(Tools)

BASE_MODEL = "claude-code"
"""The model name that is always offered; it stands for the CLI's own default (or MODEL)."""

_SUFFIXES: Mapping[str, Tools] = {"-tools": "both", "-client": "client"}

RESERVED = frozenset((BASE_MODEL, *(BASE_MODEL + suffix for suffix in _SUFFIXES)))
"""Names whose meaning is fixed; no other model may be called so."""


class Model(NamedTuple):
    """What a requested name means. `model` is the CLI's word for it; "" is its default."""

    model: str
    tools: Tools


def split(name: str, offered: Collection[str]) -> tuple[str, Tools | None] | None:
    """The offered name in `name`, and whose tools its suffix asks for (None: it has none). None: unknown name.

    `offered` are the names beside `claude-code`. One that itself ends like a suffix is taken as it stands.
    """
    if name == BASE_MODEL or (name in offered and name not in RESERVED):
        return name, None
    for suffix, tools in _SUFFIXES.items():
        base = name.removesuffix(suffix)
        if base != name and (base == BASE_MODEL or base in offered):
            return base, tools
    return None


def resolve(name: str, *, model: str, models: Mapping[str, str], tools: str) -> Model | None:
    """What `name` means where `claude-code` stands for `model`, and a name without a suffix has `tools`."""
    found = split(name, models)
    if found is None:
        return None
    base, asked = found
    return Model(model if base == BASE_MODEL else models[base], asked or cast(Tools, tools))


def model_ids(offered: Collection[str]) -> tuple[str, ...]:
    """The names to list: `claude-code` with each of its suffixes, then those beside it."""
    first = (BASE_MODEL, *(BASE_MODEL + suffix for suffix in _SUFFIXES))
    return (*first, *(name for name in offered if name not in first))
