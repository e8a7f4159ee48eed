"""What the views of all kinds share: metadata, conditions."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec


class Frozen(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """Base of the views. `gc=False`: a view never refers to itself, and thousands of them need no collecting."""


class OwnerReference(Frozen, frozen=True):
    kind: str
    name: str
    uid: str
    controller: bool = False


TIPS = "claude-code-api.io/tips"


class Annotations(Frozen, frozen=True):
    """Of the annotations there may be large ones; only this is kept."""

    tips: str = msgspec.field(default="", name=TIPS)


class Metadata(Frozen, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: Annotations = Annotations()
    owner_references: tuple[OwnerReference, ...] = ()
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Object(Frozen, frozen=True):
    """What every view has."""

    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def leaving(self) -> bool:
        """Deleted, but still there."""
        return self.metadata.deletion_timestamp is not None


class Condition(Frozen, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


def judged(before: tuple[Condition, ...], type_: str, status: str, reason: str, message: str, unix: float) -> Condition:
    """A condition as it is now (Unix time): since when it has its status stays as long as the status does."""
    old = condition(before, type_)
    since = old.last_transition_time if old is not None and old.status == status else None
    return Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since or datetime.fromtimestamp(unix, UTC),
    )


def condition(conditions: tuple[Condition, ...], type_: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((c for c in conditions if c.type == type_), None)
