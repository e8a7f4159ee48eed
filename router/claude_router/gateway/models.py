"""Which of the model's own names a team's model names stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from claude_crds.model_names import resolve
from claude_crds.views import PoolSpec

_SUFFIX = re.compile(r"\[[^\]]*\]$")
_DATED = re.compile(r"(?:-\d{6,}|-latest)?(?:-v\d{1,2})?(?:[:@][a-z0-9-]{1,16})?")
_ANY = frozenset({"default", "best", "auto", "inherit"})
"""Claude Code's words that stand for no model in particular."""
_SEVERAL = {"opusplan": ("opus", "sonnet")}


def meant(allowed: Collection[str], pool: PoolSpec) -> tuple[str, ...] | None:
    """The words that `permits` compares with, for a team's `models` in this pool; None: every model.

    A name without a model of its own (`claude-code`, while the pool sets no `model`) is whatever Claude Code takes by
    default, so it restricts nothing.
    """
    if not allowed:
        return None
    found: list[str] = []
    for name in allowed:
        known = resolve(name, model=pool.model, models=pool.models, tools=pool.tools)
        word = plain(known.model if known else name)
        if not word or word in _ANY:
            return None
        found += _SEVERAL.get(word, (word,))
    return tuple(found)


def permits(words: Iterable[str], model: str) -> bool:
    """Whether a request's `model` is one of these: `opus` is any Opus, `claude-opus-5` that with any date.

    `claude-opus-5` is not `claude-opus-5-5`. What comes after `@` or `:` says which of a model, never which model.
    """
    asked = plain(model)
    named = re.split("[@:]", asked, maxsplit=1)[0].split("-")
    return model.lower().count("claude-") <= 1 and any(word in named or is_version(word, asked) for word in words)


def is_version(name: str, model: str) -> bool:
    """Whether `model` is `name`, perhaps with a date or the like after it. Another version is another model."""
    rest = model.removeprefix(name)
    return model.startswith(name) and (not rest or bool(_DATED.fullmatch(rest)))


def plain(model: str) -> str:
    """In lower case, without `[1m]` and without what a gateway puts before it, such as `anthropic/`."""
    word = _SUFFIX.sub("", model.strip().lower())
    return word[word.rfind("claude-") :] if "claude-" in word else word
