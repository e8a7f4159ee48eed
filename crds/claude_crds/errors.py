"""What the API server answers when it does not do what it was asked: one type for each case that callers tell apart."""

from __future__ import annotations

import msgspec


class Status(msgspec.Struct, frozen=True):
    """The API server's `Status`, as it comes with an error or as the object of a watch's ERROR event."""

    message: str = ""
    reason: str = ""
    code: int = 0


class ApiError(Exception):
    """Any answer that is not the one asked for. `str()` is the server's message, after what was tried."""

    def __init__(self, status: Status, tried: str, retry_after: float | None = None) -> None:
        super().__init__(f"{tried}: {status.message or status.reason or status.code}")
        self.status = status
        self.retry_after = retry_after
        """Seconds after which the server wants to be asked again, if it said so."""


class Conflict(ApiError):
    """The object is no longer the one of the given resourceVersion or uid: read it again and decide again."""


class AlreadyExists(ApiError):
    """An object of this name is there: somebody else made it."""


class NotFound(ApiError):
    """There is no such object, or no such kind."""


class Forbidden(ApiError):
    """RBAC, a quota or an admission policy says no."""


class Invalid(ApiError):
    """The object breaks the definition's rules; the message says which."""


class BadRequest(ApiError):
    """The object is not of its kind's form at all, such as a number where text belongs; nothing was done."""


class Gone(ApiError):
    """The resourceVersion or the list's continuation is too old: list anew."""


class Unavailable(ApiError):
    """The server cannot be reached or is overloaded. Whether it did what was asked is unknown."""


_BY_REASON: dict[str, type[ApiError]] = {"AlreadyExists": AlreadyExists, "Expired": Gone}
_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequest, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 422: Invalid,
}  # fmt: skip
_UNAVAILABLE = frozenset({429, 500, 502, 503, 504})


def api_error(status: Status, tried: str, retry_after: float | None = None) -> ApiError:
    """The error of the type that fits."""
    fitting = _BY_REASON.get(status.reason) or _BY_CODE.get(status.code)
    if fitting is None:
        fitting = Unavailable if status.code in _UNAVAILABLE else ApiError
    return fitting(status, tried, retry_after)


def from_body(code: int, body: bytes, tried: str, retry_after: str | None = None) -> ApiError:
    """The error for an HTTP answer, whether its body is a `Status` or a proxy's page."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        status = Status(message=body[:200].decode(errors="replace").strip())
    status = Status(status.message or f"HTTP {code}", status.reason, code)
    return api_error(status, tried, float(retry_after) if retry_after and retry_after.isdigit() else None)
