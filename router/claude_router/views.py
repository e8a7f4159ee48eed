"""What the small endpoints answer, as OpenAI shapes its objects; times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from claude_router.sessions import Phase, PoolStats, SessionView


class ModelView(msgspec.Struct):
    """One model name."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "claude-code-api"


class ModelList(msgspec.Struct):
    """`GET /v1/models`."""

    data: list[ModelView]
    object: Literal["list"] = "list"


class TokenUsage(msgspec.Struct):
    """Tokens so far; the input includes what came from the prompt cache."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int


class ConversationView(msgspec.Struct):
    """One conversation. `name` is what logs, and the resources on a cluster, call it."""

    id: str
    name: str
    phase: Phase
    busy: bool
    created: float
    last_active: float
    turns: int
    usage: TokenUsage
    cost_usd: float
    workspace: str
    claude_session_id: str
    message: str
    object: Literal["conversation"] = "conversation"
    team: str | msgspec.UnsetType = msgspec.UNSET
    """Whose it is; admins see it."""


class ConversationList(msgspec.Struct):
    """`GET /conversations`: in order of `name`. The next page is `?after=<last_id>`.

    In a list of all teams' conversations, `first_id` and `last_id` are names: two teams may have the same id.
    """

    data: list[ConversationView]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"


class ConversationGone(msgspec.Struct):
    """`DELETE /conversations/{id}`: suspended (memory and files kept), or purged."""

    id: str
    suspended: bool
    purged: bool
    object: Literal["conversation"] = "conversation"


class CallFunction(msgspec.Struct):
    """Name and arguments (JSON) of a tool call."""

    name: str
    arguments: str


class CallView(msgspec.Struct):
    """One tool call of the assistant, Claude Code's own tools included."""

    id: str
    function: CallFunction
    type: Literal["function"] = "function"


class MessageView(msgspec.Struct, omit_defaults=True):
    """One message as OpenAI's chat API has them. After one of the assistant, its `id` names a point to fork at."""

    id: str
    role: Literal["user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None
    reasoning_content: str = ""
    tool_calls: list[CallView] = []
    tool_call_id: str = ""


class MessageList(msgspec.Struct):
    """`GET /conversations/{id}/messages`: all of them, oldest first."""

    data: list[MessageView]
    object: Literal["list"] = "list"


class ForkRequest(msgspec.Struct):
    """`POST /conversations/{id}/fork`. `id`: the new conversation's (else one is made up).

    `at`: the message of the assistant to go on from, by its `id` or its index in `GET …/messages` (else the last).
    """

    id: str = ""
    at: int | str | None = None


class PoolView(msgspec.Struct):
    """The pool at this moment, in workers and conversations."""

    size: int
    live: int
    busy: int
    warm: int
    suspended: int
    queued: int


class ErrorView(msgspec.Struct):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: ErrorView


class Health(msgspec.Struct, omit_defaults=True):
    """`GET /health`; `error` says why it is not "ok". HTTP 200 with "ok" and "degraded": turns are taken."""

    status: Literal["ok", "degraded", "failing", "draining"]
    version: str
    cli_version: str
    uptime_seconds: float
    running_requests: int
    pool: PoolView
    error: ErrorView | None = None


def conversation(view: SessionView, *, team: bool = False) -> ConversationView:
    """A session as the API shows it; `team`: with whose it is."""
    usage = view.usage
    return ConversationView(
        id=view.key.id,
        name=view.key.name,
        phase=view.phase,
        busy=view.busy,
        created=view.created,
        last_active=view.last_active,
        turns=view.turns,
        usage=TokenUsage(usage.input_tokens, usage.output_tokens, usage.cached_tokens),
        cost_usd=view.usage.cost_usd,
        workspace=view.workspace,
        claude_session_id=view.claude_session_id,
        message=view.message,
        team=view.key.tenant if team else msgspec.UNSET,
    )


def page(views: Sequence[SessionView], limit: int, *, team: bool = False, by_name: bool = False) -> ConversationList:
    """Up to `limit` of the sessions; one more than that says that there are more. `by_name`: of all teams."""
    data = [conversation(view, team=team) for view in views[:limit]]
    ids = [view.name if by_name else view.id for view in data]
    return ConversationList(
        data=data,
        has_more=len(views) > limit,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )


def health(stats: PoolStats, *, version: str, uptime: float, running: int, ending: bool) -> Health:
    """The state of the whole."""
    status: Literal["ok", "degraded", "failing", "draining"] = "ok"
    error = None
    if ending and (stats.degraded or not stats.error):
        status = "draining"
        error = ErrorView("The server is shutting down.", "server_error", None, "server_shutting_down")
    elif stats.error:
        status = "degraded" if stats.degraded else "failing"
        error = ErrorView(stats.error, "server_error", None, "workers_cannot_start")
    pool = PoolView(stats.size, stats.live, stats.busy, stats.warm, stats.suspended, stats.queued)
    return Health(status, version, stats.cli_version, round(uptime, 3), running, pool, error)


def json_response(body: Any, status: int = 200) -> Response:
    """Any of the above as an HTTP answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")
