"""Settings from the environment: declared once, as a frozen dataclass whose fields carry their own documentation.

    @dataclass(frozen=True, slots=True)
    class Settings:
        port: int = setting("PORT", 3000, integer(1, 65535), "port to listen on")

    settings = load(Settings, os.environ)      # SettingsError names variable, value and what is allowed

`table(Settings)` gives the rows of the README's table, so documentation and code cannot part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MAX_PARK_MS = 7 * 86_400_000
"""Longest wait for a client's tools. The CLI's own timer, which must be longer, holds 24 days."""

_SECRET_SHOWN = "(hidden)"


class SettingsError(ValueError):
    """A variable's value is not allowed. The message is one line and safe to print."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How a setting is read: `parse` raises ValueError when the text is not allowed; `allowed` says what is."""

    parse: Callable[[str], T]
    allowed: str


@dataclass(frozen=True, slots=True)
class _Declared:
    env: str
    kind: Kind[Any]
    doc: str
    secret: bool
    default: Any


def setting(env: str, default: Any, kind: Kind[Any], doc: str, *, secret: bool = False) -> Any:
    """Declare a field that is read from the variable `env`. A secret's value is never shown in an error."""
    metadata = {"setting": _Declared(env, kind, doc, secret, default)}
    if isinstance(default, dict):
        # dataclasses refuse a dict as a shared default, frozen or not.
        return field(default_factory=lambda: dict(default), metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


def integer(low: int, high: int) -> Kind[int]:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(parse, f"a whole number from {low} to {high}")


def milliseconds(low: int = 0, high: int = 86_400_000 * 365) -> Kind[float]:
    """Milliseconds in the environment, seconds (float) in the program."""
    whole = integer(low, high)
    return Kind(lambda text: whole.parse(text) / 1000, f"milliseconds, {whole.allowed}")


def choice(*options: str) -> Kind[str]:
    """One of the given words."""

    def parse(text: str) -> str:
        if text not in options:
            raise ValueError
        return text

    return Kind(parse, "one of " + ", ".join(options))


def boolean() -> Kind[bool]:
    """true/false, 1/0, yes/no, on/off."""
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]

    return Kind(parse, "true or false")


def text() -> Kind[str]:
    """Any text."""
    return Kind(str, "any text")


def words() -> Kind[tuple[str, ...]]:
    """A comma-separated list; blanks around the items and empty items are dropped."""
    return Kind(lambda t: tuple(w.strip() for w in t.split(",") if w.strip()), "a comma-separated list")


def mapping() -> Kind[Mapping[str, str]]:
    """`name=value,name=value`, or a JSON object of strings."""

    def parse(text: str) -> Mapping[str, str]:
        if text.lstrip().startswith("{"):
            loaded = json.loads(text)
            pairs = list(loaded.items()) if isinstance(loaded, dict) else [("", "")]
        else:
            pairs = [(name, value) for name, _, value in (p.partition("=") for p in words().parse(text))]
        clean = [(k.strip(), v.strip() if isinstance(v, str) else "") for k, v in pairs]
        if not all(k and v for k, v in clean):
            raise ValueError
        return dict(clean)

    return Kind(parse, "name=value pairs with commas between, or a JSON object of strings")


def load(cls: type[T], environ: Mapping[str, str]) -> T:
    """Read every declared field of `cls` from `environ`; unset or empty variables keep their default.

    Raises SettingsError on the first value that is not allowed.
    """
    values: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]
        declared: _Declared | None = f.metadata.get("setting")
        raw = environ.get(declared.env, "") if declared else ""
        if declared is None or raw == "":
            continue
        try:
            values[f.name] = declared.kind.parse(raw)
        except (ValueError, TypeError) as error:
            shown = _SECRET_SHOWN if declared.secret else repr(raw)
            raise SettingsError(f"{declared.env}={shown}: must be {declared.kind.allowed}") from error
    return cls(**values)


def table(cls: type[Any]) -> list[tuple[str, str, str, str]]:
    """(variable, default, allowed, meaning) of each declared field, in order of declaration."""
    rows = []
    for f in fields(cls):
        declared: _Declared | None = f.metadata.get("setting")
        if declared is not None:
            default = declared.default
            if declared.kind.allowed.startswith("milliseconds"):
                default = int(default * 1000)
            rows.append((declared.env, _shown(default), declared.kind.allowed, declared.doc))
    return rows


def _shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, Mapping):
        return ",".join(f"{k}={v}" for k, v in default.items())
    return str(default)
