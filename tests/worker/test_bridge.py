"""The MCP server that stands for the client's tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker.bridge import Bridge, ClientCall, ClientTool
from worker.cli_frames import frame

TOOLS = [ClientTool("b", "does b", {"properties": {"x": {}}}), ClientTool("a", "does a", {"type": "object"})]
SUNNY = [{"type": "text", "text": "sunny"}]


class Host:
    """A bridge, what it has written, and the calls it told of."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.calls: list[ClientCall] = []
        self.bridge = Bridge(TOOLS, self.lines.append, self.calls.append)

    def ask(self, method: str, params: dict[str, Any] | None = None, rpc_id: int | None = 7) -> Any:
        """What the CLI is answered; None while it waits."""
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}, "id": rpc_id}
        request = {"subtype": "mcp_message", "server_name": "client", "message": message}
        answer = self.bridge.handle(frame({"type": "control_request", "request_id": f"r{rpc_id}", "request": request}))
        return opened(answer, f"r{rpc_id}", rpc_id) if answer else None

    def call(self, call: str, rpc_id: int, **arguments: Any) -> Any:
        meta = {"claudecode/toolUseId": call}
        return self.ask("tools/call", {"name": "a", "arguments": arguments, "_meta": meta}, rpc_id)

    def written(self, rpc_id: int) -> Any:
        return opened(self.lines.pop(0), f"r{rpc_id}", rpc_id)


def opened(line: bytes, request_id: str, rpc_id: int | None) -> Any:
    """The JSON-RPC outcome inside the answer to a control request."""
    decoded = json.loads(line)
    response = decoded["response"]
    assert (decoded["type"], response["subtype"], response["request_id"]) == ("control_response", "success", request_id)
    message = response["response"]["mcp_response"]
    assert (message.pop("jsonrpc"), message.pop("id")) == ("2.0", rpc_id)
    return message


def test_it_introduces_itself() -> None:
    answer = Host().ask("initialize", {"protocolVersion": "2025-11-25"})["result"]
    assert (answer["protocolVersion"], answer["serverInfo"]["name"]) == ("2025-11-25", "client")
    assert Host().ask("notifications/initialized", rpc_id=None) == {"result": {}}
    assert Host().ask("ping") == {"result": {}}


def test_its_tools_are_sorted_and_may_run_at_once() -> None:
    tools = Host().ask("tools/list")["result"]["tools"]
    assert [t["name"] for t in tools] == ["a", "b"]
    assert all(t["annotations"]["readOnlyHint"] for t in tools)
    assert tools[1]["inputSchema"] == {"type": "object", "properties": {"x": {}}}


def test_equal_tools_have_equal_keys() -> None:
    def key(*tools: ClientTool) -> str:
        return Bridge(tools, lambda _: None, lambda _: None).key

    assert key(*TOOLS) == key(*reversed(TOOLS))
    assert key(ClientTool("a", "", {"x": 1, "y": 2})) == key(ClientTool("a", "", {"y": 2, "x": 1}))
    assert len({key(), key(TOOLS[0]), key(*TOOLS), key(ClientTool("b", "does c", TOOLS[0].schema))}) == 4


def test_a_call_waits_for_its_result() -> None:
    host = Host()
    assert host.call("toolu_1", 1, city="Bern") is None
    assert host.call("toolu_2", 2) is None
    assert host.calls == [ClientCall("toolu_1", "a", '{"city":"Bern"}'), ClientCall("toolu_2", "a", "{}")]
    assert host.bridge.waiting == {"toolu_1", "toolu_2"}
    host.bridge.resolve({"toolu_2": SUNNY})
    assert host.bridge.waiting == {"toolu_1"}
    assert host.written(2) == {"result": {"content": SUNNY}}
    host.bridge.resolve({"toolu_1": []})
    assert host.written(1) == {"result": {"content": []}}
    assert host.lines == []


def test_a_result_may_come_before_its_call() -> None:
    host = Host()
    host.bridge.resolve({"toolu_1": SUNNY})
    assert host.call("toolu_1", 1) == {"result": {"content": SUNNY}}
    assert (host.calls, host.bridge.waiting) == ([], set())
    assert host.call("toolu_1", 2) is None, "each result is given once"


def test_calls_without_a_result_are_answered_with_an_error() -> None:
    host = Host()
    for i in (1, 2, 3):
        host.call(f"toolu_{i}", i)
    host.bridge.cancel("toolu_2")
    assert host.written(2)["result"]["isError"]
    host.bridge.resolve({"toolu_9": SUNNY})
    host.bridge.cancel()
    assert host.written(1)["result"]["isError"]
    assert host.written(3)["result"]["isError"]
    assert host.bridge.waiting == set()
    assert host.call("toolu_9", 9) is None, "what was brought for a turn that is given up is forgotten"


def test_a_call_that_the_cli_gives_up_is_not_waited_for() -> None:
    host = Host()
    host.call("toolu_1", 1)
    host.call("toolu_2", 2)
    assert host.ask("notifications/cancelled", {"requestId": 1}, rpc_id=None) == {"result": {}}
    assert host.bridge.waiting == {"toolu_2"}


def test_a_call_without_an_id_gets_one() -> None:
    host = Host()
    host.ask("tools/call", {"name": "a"}, 4)
    assert host.calls == [ClientCall("call_r4", "a", "{}")]


def test_what_it_does_not_know_is_refused() -> None:
    assert Host().ask("resources/list")["error"]["code"] == -32601


@pytest.mark.parametrize(
    "request_",
    [{"subtype": "mcp_message", "server_name": "other", "message": {}}, {"subtype": "hook_callback"},
     {"subtype": "mcp_message", "server_name": "client", "message": "torn"}],
)  # fmt: skip
def test_what_is_not_for_it_is_answered_as_by_any_host(request_: dict[str, Any]) -> None:
    answer = Host().bridge.handle(frame({"type": "control_request", "request_id": "r", "request": request_}))
    assert answer is not None
    expected = "success" if request_["subtype"] == "hook_callback" else "error"
    assert json.loads(answer)["response"]["subtype"] == expected
