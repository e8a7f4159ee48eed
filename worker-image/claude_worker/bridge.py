"""The client's tools as an MCP server that the CLI reaches over its control requests. No I/O of its own.

The model sees the tools as `mcp__client__NAME`; a `tools/call` stays unanswered (parked) until the client brings its
result. Message shapes: JSON-RPC and MCP, as CLI 2.1.330 speaks them inside `mcp_message`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from claude_worker import frames
from claude_worker.frames import Frame

SERVER = "client"
"""The server's name, for `initialize`'s `sdkMcpServers`."""
PREFIX = f"mcp__{SERVER}__"

_CALL_ID = "claudecode/toolUseId"
_RESULT_CHARACTERS = 500_000
"""The most that the CLI lets a tool ask for; what is longer than that, it puts in a file instead."""
_METHOD_NOT_FOUND = -32601
_sorted = msgspec.json.Encoder(order="sorted")


class ClientTool(msgspec.Struct, frozen=True):
    """A tool that the client runs itself; `schema` is the JSON schema of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]


class ClientCall(msgspec.Struct, frozen=True):
    """The model's call of a client's tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


def _described(tool: ClientTool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        # MCP wants this type, and one tool without it makes the CLI drop them all.
        "inputSchema": {**tool.schema, "type": "object"},
        # Such tools run concurrently, so that all calls of a message are out before the first result.
        "annotations": {"readOnlyHint": True},
        "_meta": {"anthropic/alwaysLoad": True, "anthropic/maxResultSizeChars": _RESULT_CHARACTERS},
    }


class Bridge:
    """The server for one CLI process. `write` puts a line on its input, `on_call` hears of each call to be answered."""

    def __init__(
        self, tools: Sequence[ClientTool], write: Callable[[bytes], None], on_call: Callable[[ClientCall], None]
    ) -> None:
        self._tools = [_described(tool) for tool in sorted(tools, key=lambda tool: tool.name)]
        self._write = write
        self._on_call = on_call
        self._parked: dict[str, Frame] = {}
        self._given: dict[str, list[dict[str, Any]]] = {}
        self.key = hashlib.blake2b(_sorted.encode(self._tools), digest_size=16).hexdigest()
        """Equal for equal tools, in whatever order."""

    @property
    def waiting(self) -> set[str]:
        """The ids of the calls whose results the CLI waits for."""
        return set(self._parked)

    def handle(self, frame: Frame) -> bytes | None:
        """The answer to a control request of the CLI; None when it comes later."""
        request = frame.request or {}
        message = request.get("message")
        if request.get("subtype") != "mcp_message" or request.get("server_name") != SERVER:
            return frames.control_answer(frame)
        if not isinstance(message, dict):
            return frames.control_answer(frame)
        method, params = message.get("method"), message.get("params") or {}
        if method == "tools/call":
            return self._called(frame, params)
        if method == "initialize":
            result: dict[str, Any] = {
                "protocolVersion": params.get("protocolVersion"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": SERVER, "version": "1"},
            }
            return _answer(frame, result=result)
        if method == "tools/list":
            return _answer(frame, result={"tools": self._tools})
        if method == "notifications/cancelled":
            self._forget(params.get("requestId"))
        if method == "ping" or str(method).startswith("notifications/"):
            return _answer(frame, result={})
        return _answer(frame, error={"code": _METHOD_NOT_FOUND, "message": f"no such method: {method}"})

    def _called(self, frame: Frame, params: dict[str, Any]) -> bytes | None:
        call_id = str((params.get("_meta") or {}).get(_CALL_ID) or f"call_{frame.request_id}")
        given = self._given.pop(call_id, None)
        if given is not None:
            return _answer(frame, result={"content": given})
        self._parked[call_id] = frame
        arguments = msgspec.json.encode(params.get("arguments") or {}).decode()
        self._on_call(ClientCall(call_id, str(params.get("name", "")), arguments))
        return None

    def _forget(self, rpc_id: Any) -> None:
        for call_id, frame in list(self._parked.items()):
            if _rpc_id(frame) == rpc_id:
                del self._parked[call_id]

    def resolve(self, results: Mapping[str, list[dict[str, Any]]]) -> None:
        """Hand in results: MCP content blocks by the id of their call. Those not yet called for are kept until then."""
        for call_id, content in results.items():
            frame = self._parked.pop(call_id, None)
            if frame is None:
                self._given[call_id] = content
            else:
                self._write(_answer(frame, result={"content": content}))

    def cancel(self, *call_ids: str) -> None:
        """Answer these calls, or else all that wait, with an error: no result will come."""
        content = [{"type": "text", "text": "The client did not run this tool."}]
        for call_id in call_ids or list(self._parked):
            if frame := self._parked.pop(call_id, None):
                self._write(_answer(frame, result={"content": content, "isError": True}))
        if not call_ids:
            self._given.clear()


def _rpc_id(frame: Frame) -> Any:
    return (frame.request or {})["message"].get("id")


def _answer(frame: Frame, **outcome: Any) -> bytes:
    return frames.mcp_answer(frame.request_id, {"jsonrpc": "2.0", "id": _rpc_id(frame), **outcome})
