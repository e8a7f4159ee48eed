"""Sums of tokens, from the CLI's counts to an answer's."""

from __future__ import annotations

import msgspec

from claude_worker.events import UsageView
from claude_worker.frames import Usage


def viewed(counted: Usage) -> UsageView:
    """The API's counts: the prompt's tokens include those that came from the cache or went into it."""
    cached, written = counted.cache_read_input_tokens or 0, counted.cache_creation_input_tokens or 0
    thinking = (counted.output_tokens_details or {}).get("thinking_tokens") or 0
    prompt = (counted.input_tokens or 0) + cached + written
    return UsageView(prompt, counted.output_tokens or 0, cached, written, int(thinking))


def latest(before: Usage, after: Usage) -> Usage:
    """One message's counts: those told last, and of what was not told again those told before."""
    told = zip(msgspec.structs.astuple(before), msgspec.structs.astuple(after), strict=True)
    return Usage(*(old if new is None else new for old, new in told))


def plus(one: UsageView, other: UsageView) -> UsageView:
    """The sum."""
    both = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return UsageView(*(a + b for a, b in both))


def minus(whole: UsageView, part: UsageView) -> UsageView:
    """What is left of `whole`, nothing below zero."""
    both = zip(msgspec.structs.astuple(whole), msgspec.structs.astuple(part), strict=True)
    return UsageView(*(max(0, a - b) for a, b in both))
