"""Where a request's time goes, by what the namespace's objects showed meanwhile. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from claude_crds.resources import SESSION_LABEL
from claude_crds.views import ClaudeSession, Pod
from cluster.watching import Change

ASKED, CLAIMED, STARTED, ADDRESS, READY = (
    "its session asks", "a spare is claimed", "its pod is there", "its pod has an address", "its session is Ready",
)  # fmt: skip


def seen(changes: Iterable[Change], conversation: str, began: float) -> Mapping[str, float]:
    """What was first seen how many seconds after the request; `changes` are those since then."""
    found: dict[str, float] = {}
    session = ""
    warm: set[str] = set()
    for change in changes:
        for name in _shown(change, conversation, session, warm):
            found.setdefault(name, change.at - began)
        if isinstance(change.new, ClaudeSession) and change.new.spec.conversation_id == conversation:
            session = change.new.name
    return found


def _shown(change: Change, conversation: str, session: str, warm: set[str]) -> list[str]:
    new = change.new
    if isinstance(new, ClaudeSession) and new.spec.conversation_id == conversation:
        return [ASKED, READY] if new.status.endpoint else [ASKED]
    if not isinstance(new, Pod) or new.leaving:
        return []
    bound = new.metadata.labels.get(SESSION_LABEL)
    if bound is None or bound != session:
        return []
    # One with an address when it was first bound was there before.
    if new.name not in warm and new.status.pod_ip:
        return [CLAIMED]
    warm.add(new.name)
    return [STARTED, ADDRESS] if new.status.pod_ip else [STARTED]


def medians(rounds: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The median of each that all rounds have, earliest first."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)] if rounds else []
    return dict(sorted(((n, statistics.median(one[n] for one in rounds)) for n in names), key=lambda item: item[1]))
