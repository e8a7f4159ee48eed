"""OpenAI's error object, and how the model's failures map to it.

Shape: `{"error": {"message", "type", "param", "code"}}`; its SDKs retry 408, 409, 429 and 5xx unless the header
`x-should-retry: false` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

NOT_STARTED = "x-claude-turn"
"""Response header of a worker that refused before a turn began (value `not-started`): sending again is safe."""

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    429: "rate_limit_error", 499: "cancelled_error",
}  # fmt: skip


class ApiError(Exception):
    """An error as the client will see it: HTTP status, message, and the error object's `type`, `code`, `param`.

    `retry` is the advice to the client's SDK (`x-should-retry`); `None` leaves it to the SDK's own rule.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        retry: bool | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or _TYPES.get(status, "server_error")
        self.headers = dict(headers or {})
        if retry is not None:
            self.headers["x-should-retry"] = "true" if retry else "false"
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, round(retry_after)))

    def body(self) -> bytes:
        """The JSON error object."""
        fields = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": fields})

    def frames(self) -> bytes:
        """The end of a stream that has already begun: the error object as one SSE frame, then `[DONE]`."""
        return b"data: " + self.body() + b"\n\ndata: [DONE]\n\n"


def bad_request(message: str, *, code: str, param: str | None = None) -> ApiError:
    """A 400 with `type: invalid_request_error`."""
    return ApiError(400, message, code=code, param=param)


_MODEL_CODES = {
    400: "model_bad_request", 401: "model_authentication_failed", 403: "model_permission_denied",
    404: "model_not_found", 413: "model_request_too_large", 429: "rate_limit_exceeded", 529: "model_overloaded",
}  # fmt: skip


def model_failure(status: int | None, message: str) -> ApiError:
    """The error for a turn that failed at the model's API with HTTP `status` (None: no answer, or a cut stream).

    529 (overloaded) becomes 503, other 5xx become 502. The CLI has already retried what is worth retrying and the turn
    did run, so the SDK is told not to send it again.
    """
    if status in (400, 401, 403, 404, 413, 429):
        outer = status
    else:
        outer = 503 if status == 529 else 502
    code = _MODEL_CODES.get(status or 0, "model_error")
    return ApiError(outer, message, code=code, retry=False)
