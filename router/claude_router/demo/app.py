"""The Messages API of the scripted model over HTTP: `POST /v1/messages` (SSE or JSON), and `GET /log` for tests.

Wire format: Anthropic's public Messages streaming reference (message_start … content_block_delta … message_stop).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from claude_router.demo.script import Json, Message, Step, answer, prompts, texts_of, told

_LOG_SIZE = 20_000
_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error",
}  # fmt: skip


def _frame(event: str, **data: Any) -> bytes:
    return f"event: {event}\ndata: {json.dumps({'type': event, **data}, ensure_ascii=False)}\n\n".encode()


def _usage(request: Json) -> Json:
    """Deterministic token counts: one token for four characters of the messages; the system part counts as cached."""
    return {
        "input_tokens": max(1, len(json.dumps(request.get("messages", []))) // 4),
        "cache_read_input_tokens": len(json.dumps(request.get("system", ""))) // 4,
        "cache_creation_input_tokens": 0,
        "output_tokens": 1,
    }


def _blocks_of(message: Json) -> list[Json]:
    content = message["content"]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


class _Cut(Exception):
    """The script breaks the connection here."""


def _block(index: int, start: Json, deltas: list[Json]) -> list[bytes]:
    """The frames of one whole content block."""
    return [
        _frame("content_block_start", index=index, content_block=start),
        *(_frame("content_block_delta", index=index, delta=d) for d in deltas),
        _frame("content_block_stop", index=index),
    ]


def _text_frames(index: int, pieces: list[str]) -> list[bytes]:
    return _block(index, {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in pieces])


async def _step(index: int, step: Step) -> AsyncIterator[bytes]:
    if step.verb == "sleep":
        await asyncio.sleep(float(step.argument))
    elif step.verb == "cut":
        raise _Cut
    elif step.verb == "think":
        start = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": step.argument}, {"type": "signature_delta", "signature": "s"}]
        yield b"".join(_block(index, start, deltas))
    elif step.verb == "chunks":
        count, size = (int(x) for x in step.argument.split())
        yield b"".join(_text_frames(index, ["x" * size] * count))
    else:
        for frame in _text_frames(index, re.findall(r"\s*\S+\s*", step.argument) or [step.argument]):
            yield frame


def _uses(message: Message, number: int) -> list[Json]:
    """The message's tool calls as content blocks."""
    return [
        {"type": "tool_use", "id": f"toolu_{number:08d}" + (f"x{i}" if i else ""), "name": name, "input": given}
        for i, (name, given) in enumerate(message.calls)
    ]


async def _stream(request: Json, message: Message, number: int, entry: Json) -> AsyncIterator[bytes]:
    usage = _usage(request)
    head = {
        "id": f"msg_{number:08d}", "type": "message", "role": "assistant", "model": request.get("model", "demo"),
        "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    yield _frame("message_start", message=head)
    indices = itertools.count()
    for step in message.steps:
        async for frame in _step(next(indices) if step.verb != "sleep" else -1, step):
            yield frame
    for use in _uses(message, number):
        delta = {"type": "input_json_delta", "partial_json": json.dumps(use["input"])}
        yield b"".join(_block(next(indices), {**use, "input": {}}, [delta]))
    size = sum(len(s.argument) for s in message.steps) + len(json.dumps([given for _, given in message.calls]))
    final = entry["usage"] = {**usage, "output_tokens": max(1, size // 4)}
    yield _frame("message_delta", delta={"stop_reason": message.stop_reason, "stop_sequence": None}, usage=final)
    yield _frame("message_stop")
    entry["whole"] = True


async def _whole(request: Json, message: Message, number: int) -> Json:
    """The same answer as one JSON object, for `stream: false`."""
    text = "".join(s.argument for s in message.steps if s.verb == "say")
    content: list[Json] = [{"type": "text", "text": text}] if text or not message.calls else []
    content += _uses(message, number)
    return {
        "id": f"msg_{number:08d}", "type": "message", "role": "assistant", "model": request.get("model", "demo"),
        "content": content, "stop_reason": message.stop_reason, "stop_sequence": None, "usage": _usage(request),
    }  # fmt: skip


class DemoModel:
    """The server's state: a bounded log of what it was asked, and how often each failing prompt has failed."""

    def __init__(self) -> None:
        self.log: deque[Json] = deque(maxlen=_LOG_SIZE)
        self._numbers = itertools.count(1)
        self._failures: Counter[str] = Counter()

    def _note(self, request: Json, number: int, credential: str) -> Json:
        """Its entry in the log. `usage` is what was told of it, `whole`: to the end of the answer."""
        system = request.get("system") or ""
        entry = {
            "number": number,
            "message": f"msg_{number:08d}",
            "credential": hashlib.sha256(credential.encode()).hexdigest(),
            "usage": {},
            "whole": False,
            "model": request.get("model"),
            "system": system if isinstance(system, str) else "\n".join(b.get("text", "") for b in system),
            "prompts": prompts(request),
            "messages": [
                {"role": m["role"], "text": "\n".join(texts_of(m["content"])), "told": told(m)}
                for m in request.get("messages", [])
            ],
            "images": sum(b.get("type") == "image" for m in request.get("messages", []) for b in _blocks_of(m)),
            "tools": [t.get("name") for t in request.get("tools", [])],
            "metadata": request.get("metadata", {}),
        }  # fmt: skip
        self.log.append(entry)
        return entry

    def _error(self, message: Message, request: Json) -> Response | None:
        step = next((s for s in message.steps if s.verb == "status"), None)
        if step is None:
            return None
        code, _, limit = step.argument.partition(" ")
        key = hashlib.sha256(json.dumps(request.get("messages"), sort_keys=True).encode()).hexdigest()
        self._failures[key] += 1
        if limit and self._failures[key] > int(limit):
            return None
        kind = _ERROR_TYPES.get(int(code), "api_error")
        body = {"type": "error", "error": {"type": kind, "message": f"scripted failure {code}"}}
        return JSONResponse(body, status_code=int(code))

    async def messages(self, http: Request) -> Response:
        """`POST /v1/messages`."""
        request: Json = await http.json()
        number = next(self._numbers)
        entry = self._note(request, number, http.headers.get("x-api-key", ""))
        message = answer(request)
        if error := self._error(message, request):
            return error
        message = Message(tuple(s for s in message.steps if s.verb != "status"), message.calls)
        if not request.get("stream"):
            if any(s.verb == "cut" for s in message.steps):
                # The CLI falls back to a whole answer when streams keep breaking; that breaks as well.
                return JSONResponse({"type": "error", "error": {"type": "api_error", "message": "scripted cut"}}, 500)
            answered = await _whole(request, message, number)
            entry |= {"usage": answered["usage"], "whole": True}
            return JSONResponse(answered)
        return StreamingResponse(_stream(request, message, number, entry), media_type="text/event-stream")

    async def read_log(self, http: Request) -> Response:
        """`GET /log?after=N`: what was asked, oldest first, from request number N + 1 on."""
        after = int(http.query_params.get("after", "0"))
        return JSONResponse([e for e in self.log if e["number"] > after])

    async def count_tokens(self, http: Request) -> Response:
        """`POST /v1/messages/count_tokens`."""
        return JSONResponse({"input_tokens": _usage(await http.json())["input_tokens"]})


async def _alive(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def create_app() -> Starlette:
    """The scripted model as an ASGI application."""
    model = DemoModel()
    return Starlette(routes=[
        Route("/v1/messages", model.messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", model.count_tokens, methods=["POST"]),
        Route("/log", model.read_log),
        Route("/", _alive, methods=["GET", "HEAD"]),
    ])  # fmt: skip
