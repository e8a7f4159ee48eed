"""From the CLI's result to an API error."""

from __future__ import annotations

from claude_worker.frames import Frame
from claude_worker.openai.errors import ApiError, model_failure


def failure(frame: Frame, *, structured: bool = False) -> ApiError | None:
    """What a turn's result says went wrong. With `structured`, an answer without the wanted object is a failure."""
    has_object = bytes(frame.structured_output) not in (b"", b"null")
    unmet = frame.subtype == "error_max_structured_output_retries" or not (frame.is_error or has_object)
    if structured and unmet:
        return ApiError(422, "The model gave no answer that follows the requested format.",
                        code="response_format_not_met", param="response_format", retry=False)  # fmt: skip
    if not frame.is_error:
        return None
    if frame.terminal_reason == "max_turns" or frame.subtype == "error_max_turns":
        return ApiError(502, "Claude Code reached its limit of steps.", code="max_turns", retry=False)
    words = [str(e) for e in frame.errors or []]
    message = frame.result or "; ".join(words) or "Claude Code ended the turn with an error."
    return model_failure(frame.api_error_status, message[:1000])
