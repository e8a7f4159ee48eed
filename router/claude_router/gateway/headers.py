"""Which headers pass, in either direction."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

from multidict import CIMultiDict

HeaderList = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
    b"host", b"content-length", b"accept-encoding", b"via",
})  # fmt: skip
_PRIVATE = re.compile(
    rb"authori[sz]ation|authenticat|api[-_]?key|token|secret|credential|cookie|forwarded|real-ip|^proxy-"
)
"""Credentials by any name that a gateway behind us might know, and who is where in the cluster."""

_BACK = frozenset({
    b"content-type", b"content-length", b"content-encoding", b"cache-control", b"request-id", b"x-request-id",
    b"retry-after", b"retry-after-ms", b"x-should-retry",
})  # fmt: skip
_BACK_PREFIX = b"anthropic-"
_NOT_BACK = frozenset({b"anthropic-organization-id"})


def forward(
    received: Iterable[tuple[bytes, bytes]], credential: tuple[str, str], length: int | None
) -> CIMultiDict[str]:
    """What goes to the model; `length` of the body in bytes, None: not known. Names come in lower case.

    Without compression, so that the meter can read along, and without what is no text: it would not pass unchanged.
    """
    received = list(received)
    named = {name.strip().lower() for key, value in received if key == b"connection" for name in value.split(b",")}
    sent: CIMultiDict[str] = CIMultiDict()
    for name, value in received:
        if name not in _HOP_BY_HOP and name not in named and not _PRIVATE.search(name):
            with contextlib.suppress(UnicodeDecodeError):
                sent.add(name.decode(), value.decode())
    sent["Accept-Encoding"] = "identity"
    if length is not None:
        sent["Content-Length"] = str(length)
    sent[credential[0]] = credential[1]
    return sent


def back(received: Iterable[tuple[bytes, bytes]], request_id: str) -> tuple[HeaderList, str]:
    """What goes to the worker, and the media type in lower case."""
    passed: HeaderList = []
    kind = ""
    for raw, value in received:
        name = raw.lower()
        if name in _BACK or (name.startswith(_BACK_PREFIX) and name not in _NOT_BACK):
            passed.append((name, value))
            if name == b"content-type":
                kind = value.decode("latin-1").partition(";")[0].strip().lower()
    if request_id:
        passed.append((b"x-gateway-request-id", request_id.encode()))
    return passed, kind
