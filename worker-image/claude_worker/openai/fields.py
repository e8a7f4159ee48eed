"""Which fields of a request have no effect: what the response header `X-Claude-Ignored` names.

Nothing that a client sends is dropped in silence: it is honoured, refused (`request.parse`), or named here. A value
that is OpenAI's default asks for nothing and is not named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from claude_worker.openai.request import ChatRequest

_NOTHING: tuple[Any, ...] = ()

DEFAULTS: dict[str, tuple[Any, ...]] = {
    "verbosity": ("medium",),
    "max_completion_tokens": _NOTHING,
    "max_tokens": _NOTHING,
    "stop": ([],),
    "temperature": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "seed": _NOTHING,
    "prediction": _NOTHING,
    "web_search_options": _NOTHING,
    "service_tier": ("auto", "default"),
    "store": (False,),
    "prompt_cache_key": _NOTHING,
    "prompt_cache_options": _NOTHING,
    "prompt_cache_retention": _NOTHING,
    "safety_identifier": _NOTHING,
    "user": _NOTHING,
}
"""Fields without effect, each with the values that are OpenAI's default (null always is)."""


def ignored(request: ChatRequest, *, own_tools_only: bool) -> list[str]:
    """The names of what the client sent and what has no effect. `own_tools_only`: the client's tools are left aside."""
    names = [
        name
        for name, defaults in DEFAULTS.items()
        if (value := getattr(request, name)) is not None and value not in defaults
    ]
    if request.metadata and any(key != "conversation_id" for key in request.metadata):
        names.append("metadata")
    names += _tools(request, own_tools_only=own_tools_only)
    names += _messages(request)
    names += request.unknown
    return names


def _tools(request: ChatRequest, *, own_tools_only: bool) -> Iterator[str]:
    choice = request.tool_choice
    if request.tools and choice != "none":
        if own_tools_only:
            yield "tools"
        elif any(_is_strict(tool) for tool in request.tools):
            yield "tools.function.strict"
    if choice not in (None, "auto", "none") and (own_tools_only or not _is_a_selection(choice)):
        yield "tool_choice"
    if request.parallel_tool_calls is False:
        yield "parallel_tool_calls"


def _is_strict(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and function.get("strict") is True


def _is_a_selection(choice: Any) -> bool:
    """`allowed_tools` of which the model may call any or none: the others are not shown to it."""
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    return isinstance(allowed, dict) and allowed.get("mode") == "auto"


def _messages(request: ChatRequest) -> Iterator[str]:
    if any(m.name for m in request.messages):
        yield "messages.name"
    parts = (p for m in request.messages if type(m.content) is list for p in m.content)
    if any(p.image_url and p.image_url.detail not in (None, "auto") for p in parts):
        yield "messages.content.image_url.detail"
