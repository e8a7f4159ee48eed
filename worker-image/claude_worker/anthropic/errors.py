"""Anthropic's error object: `{"type": "error", "error": {"type", "message"}}`, with our `code` and `param` beside."""

from __future__ import annotations

import msgspec

from claude_worker.openai.errors import ApiError

_TYPES = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip


def body(error: ApiError) -> bytes:
    """The JSON error object. `type` comes last: the end of a stream is known by its last bytes."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    fields = {"type": kind, "message": error.message, "code": error.code, "param": error.param}
    return msgspec.json.encode({"error": {k: v for k, v in fields.items() if v is not None}, "type": "error"})


def frame(error: ApiError) -> bytes:
    """The end of a stream that has begun."""
    return b"event: error\ndata: " + body(error) + b"\n\n"
