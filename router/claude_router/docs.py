"""The OpenAPI document: schemas taken from the very types that decode requests and encode answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from fastapi import FastAPI

from claude_router import views
from claude_worker.anthropic.body import MessagesBody
from claude_worker.dialect import CHAT, MESSAGES, RESPONSES, Dialect
from claude_worker.openai.request import ChatRequest
from claude_worker.openai.responses_body import ResponsesBody


class MessagesError(msgspec.Struct):
    """What went wrong."""

    type: str
    message: str
    code: str | None = None
    param: str | None = None


class MessagesErrorBody(msgspec.Struct):
    """An error, as Anthropic's API has it."""

    error: MessagesError
    type: Literal["error"] = "error"


_TYPES = (
    ChatRequest,
    ResponsesBody,
    MessagesBody,
    MessagesErrorBody,
    views.ModelList,
    views.ModelView,
    views.ConversationList,
    views.ConversationView,
    views.ConversationGone,
    views.Health,
    views.ErrorBody,
)
_REF = "#/components/schemas/{name}"
_ID_HEADER = {
    "X-Conversation-ID": {"description": "The conversation's id; send it to continue.", "schema": {"type": "string"}}
}


def ref(type_: type[Any]) -> dict[str, Any]:
    """A reference to the schema of one of the documented types."""
    return {"$ref": _REF.format(name=type_.__name__)}


def answers(type_: type[Any], description: str, *, errors: dict[int, str] | None = None) -> dict[int | str, Any]:
    """The `responses` of a route that answers with `type_`, or with the error object."""
    documented: dict[int | str, Any] = {
        200: {"description": description, "content": {"application/json": {"schema": ref(type_)}}}
    }
    for status, meaning in (errors or {}).items():
        documented[status] = {"description": meaning, "content": {"application/json": {"schema": ref(views.ErrorBody)}}}
    return documented


@dataclass(frozen=True)
class Api:
    """What the document says of one API for turns."""

    dialect: Dialect
    body: type[Any]
    error: type[Any]
    tag: str
    summary: str
    operation: str
    whole: str
    stream: str
    example: dict[str, Any]


_QUESTION = "Create hello.txt and say what is in it."
_USER = [{"role": "user", "content": _QUESTION}]
APIS = (
    Api(
        CHAT, ChatRequest, views.ErrorBody, "OpenAI", "Create chat completion", "create_chat_completion",
        "OpenAI's `chat.completion` object.",
        "Server-sent events: `chat.completion.chunk` objects, then `[DONE]`; `: keepalive` comments in between.",
        {"model": "claude-code:my-conversation", "messages": _USER, "stream": True},
    ),
    Api(
        RESPONSES, ResponsesBody, views.ErrorBody, "OpenAI", "Create response", "create_response",
        "OpenAI's `response` object.",
        "Server-sent events from `response.created` to `response.completed`; `: keepalive` comments in between.",
        {"model": "claude-code:my-conversation", "input": _QUESTION, "stream": True},
    ),
    Api(
        MESSAGES, MessagesBody, MessagesErrorBody, "Anthropic", "Create message", "create_message",
        "Anthropic's `message` object.",
        "Server-sent events from `message_start` to `message_stop`; `ping` events in between.",
        {"model": "claude-code:my-conversation", "max_tokens": 32000, "messages": _USER, "stream": True},
    ),
)  # fmt: skip


def turn_responses(api: Api) -> dict[int | str, Any]:
    """The `responses` of a route for turns."""
    meanings = {
        400: "The request is not valid; `param` says where.", 401: "API key missing or wrong.",
        404: "Unknown model.", 413: "The body is too large.", 429: "Too many requests wait for this conversation.",
        502: "The worker or the model failed.", 503: "No worker became free in time; see Retry-After.",
    }  # fmt: skip
    documented: dict[int | str, Any] = {
        status: {"description": meaning, "content": {"application/json": {"schema": ref(api.error)}}}
        for status, meaning in meanings.items()
    }
    documented[200] = {
        "description": "The answer: one object, or a stream when `stream` is true.",
        "headers": _ID_HEADER,
        "content": {
            "application/json": {"schema": {"type": "object", "description": api.whole}},
            "text/event-stream": {"schema": {"type": "string", "description": api.stream}},
        },
    }
    return documented


def turn_request(api: Api) -> dict[str, Any]:
    """What FastAPI does not know of a route for turns, which reads its body itself."""
    text = {"type": "string", "maxLength": 256}
    headers = {
        "X-Conversation-ID": "The conversation to continue or begin; before every other way to name it.",
        "x-session-id": "A client's own session id, as opencode sends it.",
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref(api.body), "example": api.example}},
        },
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": text, "description": meaning}
            for name, meaning in headers.items()
        ],
    }


def document(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """The whole document. `keys`: whether an API key is needed."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
        components = found.setdefault("components", {})
        components["schemas"] = {**schemas}
        if keys:
            components["securitySchemes"] = {"api_key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"api_key": []}]
        _drop_validation_errors(found)
        app.openapi_schema = found
    return app.openapi_schema


def _drop_validation_errors(found: dict[str, Any]) -> None:
    """FastAPI announces its own 422 for every parameter; here those errors are 400 in OpenAI's format."""
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
