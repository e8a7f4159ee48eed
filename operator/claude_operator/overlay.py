"""Laying a pool's `podTemplate` over what the operator makes. Pure.

The definition lets nearly everything pass as a template's spec, so what cannot be laid over is found here: BadTemplate
says where, in words for whoever wrote it. No value is in them, for it may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Json = dict[str, Any]

ROOT = ("podTemplate",)
_NAMED = frozenset({"containers", "initContainers", "env", "volumes", "volumeMounts", "ports", "imagePullSecrets"})
_WHOLE = frozenset({"env", "volumes"})
_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort"}
_KINDS = {dict: "a map", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}


class BadTemplate(Exception):
    """Nothing can be made from this `podTemplate`; `str()` names the field."""


@contextmanager
def of_template() -> Iterator[None]:
    """Whatever goes wrong inside is the template's fault: it is all that is not of a known form there."""
    try:
        yield
    except BadTemplate:
        raise
    except Exception as error:
        # Of these two the text is a name or a type; that of others may repeat a value.
        detail = f": {error}" if isinstance(error, KeyError | AttributeError) else ""
        raise BadTemplate(f"podTemplate has not the form of a pod's ({type(error).__name__}{detail})") from error


def merge(base: Any, over: Any, at: tuple[str, ...] = ROOT) -> Any:
    """`over` laid over `base`, as `podTemplate` promises; neither is changed. `at`: where `over` is from."""
    key = at[-1]
    if isinstance(base, dict) and isinstance(over, dict):
        merged = dict(base)
        for name, value in over.items():
            if value is None and name in _NAMED:
                continue  # as kubectl and the API server take it: a list of which nothing is said
            merged[name] = merge(base[name], value, (*at, name)) if name in base else value
        return merged
    if isinstance(base, list) and key in _NAMED:
        field = _KEYS.get(key, "name")
        known = {item.get(field): item for item in base}
        for item in entries(over, at):
            name = item[field]
            # Of an `env` or a volume, half of one and half of the other would be nothing.
            whole = name not in known or key in _WHOLE
            known[name] = item if whole else merge(known[name], item, (*at[:-1], f"{key}[{name}]"))
        return list(known.values())
    return over


def entries(found: Any, at: tuple[str, ...]) -> list[Json]:
    """The entries of a list whose entries go by a name (or path, or port), which each of them has."""
    field = _KEYS.get(at[-1], "name")
    where = ".".join(at)
    if not isinstance(found, list):
        raise BadTemplate(f"{where} is {_kind(found)}, and must be a list")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise BadTemplate(f"{where}[{number}] is {_kind(entry)}, and must be a map")
        if not isinstance(entry.get(field), str | int):
            raise BadTemplate(f"{where}[{number}] has no {field}")
    return found


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "nothing")
