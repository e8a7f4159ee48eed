"""What the gateway itself refuses, as the Messages API would say it: each tells the CLI whether to try again."""

from __future__ import annotations

from claude_crds.resources import timestamp
from claude_worker.openai.errors import ApiError


def unknown_path(method: str) -> ApiError:
    """404: not a request that Claude Code has with the Messages API. The path is not repeated: it is the sender's."""
    return ApiError(404, f"The gateway knows no such path for {method}.", code="not_found", retry=False)


def no_credential() -> ApiError:
    """401 without any credential."""
    return ApiError(401, "No credential was given. A worker sends its pod's token.", code="missing_credential")


def bad_credential(why: str) -> ApiError:
    """401. `why` must not repeat the credential."""
    return ApiError(401, f"The credential is not valid: {why}.", code="invalid_credential")


def not_ready(why: str) -> ApiError:
    """503 that is worth another try in a moment."""
    return ApiError(503, f"The gateway cannot serve this now: {why}.", code="not_ready", retry=True, retry_after=1)


def no_team(team: str) -> ApiError:
    """403: the session's team has been deleted."""
    return ApiError(403, f"There is no team {team!r} any more.", code="team_not_found", retry=False)


def model_not_allowed(model: str, team: str) -> ApiError:
    """403: the team may not use the model."""
    message = f"The team {team!r} may not use the model {model[:100]!r}."
    return ApiError(403, message, code="model_not_allowed", param="model", retry=False)


def bad_body(why: str) -> ApiError:
    """400: the body is not what it has to be for the model to be known."""
    return ApiError(400, f"The request's body is not valid: {why}.", code="invalid_body", retry=False)


def no_upstream(why: str) -> ApiError:
    """503: the credential for the model is missing, which whoever runs the gateway has to mend."""
    return ApiError(503, f"The model's credential is missing: {why}.", code="no_upstream_credential", retry=False)


def unreachable() -> ApiError:
    """502: no answer of the model's API."""
    return ApiError(502, "The model's API did not answer.", code="upstream_unreachable", retry=True)


def over_ceiling(team: str, resets: float, now: float) -> ApiError:
    """429 until the budget's period ends. Times are Unix seconds."""
    message = f"The budget of the team {team!r} is spent. It is full again at {timestamp(resets)}."
    return ApiError(429, message, code="budget_exceeded", retry=False, retry_after=resets - now)


def crowded() -> ApiError:
    """429: the worker has too much in flight."""
    message = "This worker has too many requests in flight, or too large ones."
    return ApiError(429, message, code="too_many_requests", retry=True, retry_after=1.0)


def too_slow() -> ApiError:
    """408: the request's body did not come."""
    return ApiError(408, "The request's body did not come in time.", code="request_timeout", retry=True)


def internal() -> ApiError:
    """500: a bug of ours."""
    return ApiError(500, "The gateway failed. Its log says why.", code="internal_error")


def too_large(limit: int) -> ApiError:
    """413: the request's body is over the limit, in bytes."""
    return ApiError(413, f"The request's body is larger than {limit} bytes (MAX_BODY_BYTES).", code="body_too_large",
                    retry=False)  # fmt: skip
