"""The router's own errors, as the client sees them: what happened, to which conversation, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from claude_router.sessions import PoolExhausted, Unreachable
from claude_worker.openai.errors import ApiError


def pool_exhausted(name: str, waited: float, why: PoolExhausted, detail: str = "") -> ApiError:
    """No worker became free in `waited` seconds."""
    more = f" The last worker that was tried refused: {detail}" if detail else ""
    return ApiError(
        503,
        f"No worker became free for conversation {name} within {waited:.0f} s: {why}. {why.advice}{more}",
        code="pool_exhausted",
        retry_after=max(1.0, min(waited, 30.0)),
    )


def unreachable(why: Unreachable) -> ApiError:
    """Nobody can be asked for a worker."""
    return ApiError(503, f"{why}. {why.advice}", code="cluster_unreachable", retry_after=5)


def session_failed(name: str, reason: str) -> ApiError:
    """The conversation's worker cannot be started."""
    return ApiError(502, f"Conversation {name} cannot be served: {reason}", code="session_failed", retry=False)


def conversation_queue_full(name: str, waiting: int) -> ApiError:
    """Too many requests wait for one conversation's worker."""
    return ApiError(
        429,
        f"{waiting} requests already wait for conversation {name}; it runs one turn at a time."
        " Wait for its answers, or raise MAX_QUEUE.",
        code="conversation_queue_full",
        retry_after=1,
    )


def worker_lost(name: str) -> ApiError:
    """The connection to the worker broke after the request had been sent: the turn may have run."""
    return ApiError(
        502,
        f"The worker of conversation {name} was lost during the turn. The conversation is kept up to there;"
        " ask it what was done before you send this again.",
        code="worker_lost",
        retry=False,
    )


def worker_gone(name: str) -> ApiError:
    """The connection to the worker broke during something that was no turn."""
    return ApiError(502, f"The worker of conversation {name} was lost meanwhile. Send this again.", code="worker_lost")


def conversation_busy(name: str) -> ApiError:
    """What a running turn does not let happen has been waited for long enough."""
    return ApiError(
        409,
        f"A turn of conversation {name} is running. Wait for its end, and send this again.",
        code="conversation_busy",
        retry=True,
        retry_after=5,
    )


def previous_response_not_found() -> ApiError:
    """There is no conversation that could know it; a worker says the same of a response that it does not know."""
    return ApiError(
        404,
        "The previous response is not known here (any more).",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def conversation_exists(conversation_id: str) -> ApiError:
    """A fork cannot become a conversation that there is."""
    return ApiError(
        409,
        f"There is a conversation with the id {conversation_id!r} already. Choose another id, or leave it out.",
        code="conversation_exists",
        param="id",
        retry=False,
    )


def pool_too_small() -> ApiError:
    """A fork needs both workers at once."""
    return ApiError(
        409,
        "A fork needs two workers at the same time; the pool is of size 1. Raise POOL_SIZE, or the ClaudePool's size.",
        code="pool_too_small",
        retry=False,
    )


def transcript_too_large(name: str) -> ApiError:
    """The messages do not fit into one answer."""
    return ApiError(
        502,
        f"The transcript of conversation {name} is too large to be shown.",
        code="transcript_too_large",
        retry=False,
    )


def worker_bad_answer(name: str, status: int) -> ApiError:
    """The worker answered something that is neither an event stream nor an error object."""
    return ApiError(
        502, f"The worker of conversation {name} gave an unexpected answer (HTTP {status}).", code="worker_bad_answer"
    )


def shutting_down() -> ApiError:
    """The server stops."""
    return ApiError(
        503, "The server is shutting down. Send this again in a moment.", code="server_shutting_down", retry_after=1
    )


def body_too_large(limit: int) -> ApiError:
    """The request's body is over the limit, in bytes."""
    return ApiError(413, f"The request's body is larger than {limit} bytes (MAX_BODY_BYTES).", code="body_too_large")


def too_many_parts(limit: int) -> ApiError:
    """Read, the request would take many times the memory that its bytes take."""
    return ApiError(400, f"The request's body has more than {limit} parts.", code="too_many_parts")


def model_not_found(model: str, offered: Sequence[str]) -> ApiError:
    """A model that is not offered. `offered`: those that whoever asked for it may have."""
    shown = model if len(model) <= 100 else model[:100] + "…"
    return ApiError(
        404,
        f"The model '{shown}' does not exist here. Offered: {', '.join(offered) or 'none'}.",
        code="model_not_found",
        param="model",
    )


def conversation_not_found(conversation_id: str) -> ApiError:
    """An id that no conversation has."""
    return ApiError(
        404,
        f"No conversation has the id {conversation_id!r}. GET /conversations lists them.",
        code="conversation_not_found",
        param="conversation_id",
    )


def unknown_path(method: str) -> ApiError:
    """A path that leads nowhere. It is not repeated: it is the client's text, and may be anything."""
    return ApiError(404, f"Unknown path for {method}. See /docs for what there is.", code="unknown_path")


def tokens_not_counted() -> ApiError:
    """What Anthropic's SDK can ask for, and nobody here can answer."""
    return ApiError(404, "Tokens cannot be counted here: what a prompt costs is known when it has been answered.",
                    code="not_supported")  # fmt: skip


def method_not_allowed(method: str, allowed: str) -> ApiError:
    """A known path, the wrong method; `allowed` as in the header `Allow`."""
    return ApiError(
        405, f"{method} is not allowed here; use {allowed}.", code="method_not_allowed", headers={"allow": allowed}
    )


def invalid_parameter(problems: Sequence[Any]) -> ApiError:
    """FastAPI's list of what is wrong with a query or path parameter."""
    first = problems[0] if problems else {}
    param = str(first.get("loc", ("?",))[-1])
    return ApiError(
        400, f"Invalid value for '{param}': {first.get('msg', 'invalid')}.", code="invalid_parameter", param=param
    )


def internal_error() -> ApiError:
    """Something unforeseen; the log has the traceback, the client learns nothing of it."""
    return ApiError(500, "Internal server error. The server's log says more.", code="internal_error")


class _Object(msgspec.Struct):
    message: str
    type: str = "server_error"
    param: str | None = None
    code: str | None = None


class _Envelope(msgspec.Struct):
    error: _Object


_decode = msgspec.json.Decoder(_Envelope).decode


def from_worker(status: int, body: bytes, name: str, *, retry_after: float | None = None) -> ApiError:
    """The error in a worker's answer, to be told in another form than the worker's.

    `retry_after` seconds: the turn did not begin, so the client may send it again.
    """
    try:
        found = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return worker_bad_answer(name, status)
    again = None if retry_after is None else True
    return ApiError(
        status,
        found.message,
        code=found.code,
        param=found.param,
        kind=found.type,
        retry=again,
        retry_after=retry_after,
    )
