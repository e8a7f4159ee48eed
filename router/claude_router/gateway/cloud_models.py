"""What the clouds call the models that Claude Code names, and which betas they know.

A rule gives today's names and, so far as they keep to it, tomorrow's: `claude-opus-5` is `us.anthropic.claude-opus-5`
on Bedrock and the same on Vertex; one with a date has `-v1:0` after it there, and an `@` before the date here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from claude_router.gateway.models import is_version

Ids = Mapping[str, str]
"""Claude Code's name → the cloud's id, by which somebody overrules the rule."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,2047}")
_LONG = re.compile(r"\[1m\]$", re.IGNORECASE)
_NAME = re.compile(r"claude(?:-[a-z0-9]+){1,8}")
_DATED = re.compile(r"(.+)-(\d{8})")
_BEDROCK = re.compile(r"(?:[a-z]{2,6}(?:-gov)?\.)?anthropic\.(claude(?:-[a-z0-9]+){1,8}(?::\d{1,3})?)")
_VERTEX = re.compile(r"claude(?:-[a-z0-9]+){1,8}@[a-z0-9]{1,16}")

_DATES = {
    "claude-3-5-haiku": "20241022", "claude-3-5-sonnet": "20241022", "claude-3-7-sonnet": "20250219",
    "claude-haiku-4-5": "20251001", "claude-opus-4": "20250514", "claude-opus-4-0": "20250514",
    "claude-opus-4-1": "20250805", "claude-opus-4-5": "20251101", "claude-sonnet-4": "20250514",
    "claude-sonnet-4-0": "20250514", "claude-sonnet-4-5": "20250929",
}  # fmt: skip
"""Models that the clouds know by their date only."""
_ODD_BEDROCK = {
    "claude-3-5-sonnet-20241022": "claude-3-5-sonnet-20241022-v2:0",
    "claude-opus-4-6": "claude-opus-4-6-v1",
}
_ODD_VERTEX = {"claude-3-5-sonnet-20241022": "claude-3-5-sonnet-v2@20241022"}

_BOTH = frozenset({
    "compact-2026-01-12", "computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07",
    "context-management-2025-06-27", "dangerous-tool-use-2026-09-03", "interleaved-thinking-2025-05-14",
    "mid-conversation-tool-changes-2026-07-01", "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18", "tool-search-tool-2025-10-19",
})  # fmt: skip
BEDROCK_BETAS = _BOTH | {
    "effort-2025-11-24", "fine-grained-tool-streaming-2025-05-14", "mid-conversation-output-config-2026-07-01",
    "thinking-token-count-2026-05-13",
}  # fmt: skip
VERTEX_BETAS = _BOTH | {"inline-tools-2026-09-15", "web-search-2025-03-05"}
"""A beta that a cloud does not know is an error there. These are those that LiteLLM 1.109 passes on, and on
Bedrock the last one, which Claude Code 2.1.330 itself sends there."""


def read_ids(pairs: Mapping[str, object]) -> Ids:
    """Raises ValueError."""
    for name, value in pairs.items():
        if not (isinstance(value, str) and _ID.fullmatch(value)):
            raise ValueError(f"{name[:100]!r} has no model's id")
    return {name.lower(): str(value) for name, value in pairs.items()}


def bedrock_id(model: str, ids: Ids, prefix: str) -> str | None:
    """Bedrock's id for what a request names; None: it is no model's name. `prefix` such as `eu` says where it may run.

    A request that names an id of Bedrock's gets this prefix, too: a worker does not choose where data goes.
    """
    name = _name(model)
    if own := _overruled(name, ids):
        return own
    before = f"{prefix}." if prefix else ""
    if there := _BEDROCK.fullmatch(name):
        return f"{before}anthropic.{there[1]}"
    full = _full(name)
    if full is None:
        return None
    default = f"{full}-v1:0" if _DATED.fullmatch(full) else full
    return f"{before}anthropic.{_ODD_BEDROCK.get(full, default)}"


def vertex_id(model: str, ids: Ids) -> str | None:
    """Vertex's id for what a request names; None: it is no model's name."""
    name = _name(model)
    if own := _overruled(name, ids):
        return own
    if _VERTEX.fullmatch(name):
        return name
    full = _full(name)
    if full is None:
        return None
    return _ODD_VERTEX.get(full) or _DATED.sub(r"\1@\2", full)


def prefix_of(region: str) -> str:
    """Where Bedrock may run what is asked for in a region, as Claude Code has it."""
    for start, prefix in (("us-gov-", "us-gov"), ("us-", "us"), ("eu-", "eu"), ("ap-", "apac")):
        if region.startswith(start):
            return prefix
    return "global"


def known_betas(header: str, known: frozenset[str]) -> list[str]:
    """Those of an `anthropic-beta` header that are known, each once."""
    return list(dict.fromkeys(beta for word in header.split(",") if (beta := word.strip()) in known))


def _name(model: str) -> str:
    return _LONG.sub("", model.strip()).lower()


def _overruled(name: str, ids: Ids) -> str:
    return ids.get(max((known for known in ids if is_version(known, name)), key=len, default=""), "")


def _full(name: str) -> str | None:
    """With its date, if the clouds want one."""
    if not _NAME.fullmatch(name):
        return None
    name = name.removesuffix("-latest")
    return f"{name}-{date}" if (date := _DATES.get(name)) else name
