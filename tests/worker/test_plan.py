"""What a turn needs of the CLI's process, and what it is prompted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from claude_worker import plan
from claude_worker.bridge import ClientTool
from claude_worker.history import ROOT, Kind, Node, Run
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest, Message
from claude_worker.prefixes import EMPTY
from claude_worker.settings import WorkerSettings
from claude_worker.setup import Setup

CALLS = Node("n", "s", "m", ("t1", "t2"))
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("b", "a")]
EMPTY_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}


def came(call: str) -> Message:
    return Message("tool", f"result of {call}", tool_call_id=call)


def run(*new: Message, context: tuple[Message, ...] = (), kind: Kind = "continued") -> Run:
    return Run(kind, EMPTY, new, EMPTY, context)


async def told(run: Run, node: Node) -> list[tuple[str, str]]:
    """The prompt's blocks: a text, or whose result and what."""
    blocks = await plan._blocks(run, node, remote=False)
    return [_shown(block) for block in blocks]


def _shown(block: dict[str, Any]) -> tuple[str, str]:
    if block["type"] == "text":
        return "text", block["text"]
    content = block["content"]
    return block["tool_use_id"], content if isinstance(content, str) else content[0]["text"]


async def test_results_come_first_and_what_was_not_run_is_told() -> None:
    assert await told(run(came("t2"), Message("user", "on")), CALLS) == [
        ("t2", "result of t2"), ("t1", plan._NOT_RUN), ("text", "on"),
    ]  # fmt: skip
    assert await told(run(Message("user", "on")), CALLS) == [
        ("t1", plan._NOT_RUN), ("t2", plan._NOT_RUN), ("text", "on"),
    ]  # fmt: skip
    assert await told(run(Message("user", "on")), ROOT) == [("text", "on")]


async def test_results_at_the_beginning_of_a_rewritten_history_are_results() -> None:
    """They belong to calls that the CLI knows; only what follows them is told as prose."""
    context = (came("t1"), came("t2"), Message("assistant", "rewritten"))
    blocks = await told(run(Message("user", "on"), context=context, kind="rewritten"), CALLS)
    assert blocks[:2] == [("t1", "result of t1"), ("t2", "result of t2")]
    assert "assistant: rewritten" in blocks[2][1]
    assert "result of" not in blocks[2][1]
    assert blocks[3:] == [("text", "on")]


async def test_results_of_calls_that_the_cli_does_not_know_are_prose() -> None:
    context = (Message("user", "do it"), Message("assistant", "calling"))
    blocks = await told(run(came("x"), context=context, kind="rewritten"), ROOT)
    assert [kind for kind, _ in blocks] == ["text", "text"]
    assert "result of x" in blocks[1][1]


@pytest.mark.parametrize(
    ("model", "tools", "names"),
    [
        ("claude-code", "own", ()),
        ("claude-code-tools", "both", ("a", "b")),
        ("claude-code-client", "client", ("a", "b")),
    ],
)
def test_the_models_name_says_whose_tools_there_are(model: str, tools: Any, names: tuple[str, ...]) -> None:
    request = ChatRequest([Message("user", "x")], model=model, tools=TOOLS)
    client = tuple(ClientTool(name, "", EMPTY_SCHEMA) for name in names)
    assert plan.wanted(request, WorkerSettings()) == Setup(tools, client)


def test_tools_that_are_left_aside_may_have_any_form() -> None:
    tools: list[Any] = [{"type": "custom"}]
    assert plan.wanted(ChatRequest([Message("user", "x")], tools=tools), WorkerSettings()) == Setup()
    with pytest.raises(ApiError):
        plan.wanted(ChatRequest([Message("user", "x")], model="claude-code-tools", tools=tools), WorkerSettings())


@pytest.mark.parametrize(("level", "effort"), [(None, ""), ("none", "low"), ("minimal", "low"), ("xhigh", "xhigh")])
def test_effort_and_schema_are_part_of_it(level: str | None, effort: str) -> None:
    request = ChatRequest([Message("user", "x")], reasoning_effort=level, response_format={"type": "json_object"})
    assert plan.wanted(request, WorkerSettings()) == Setup(schema='{"type":"object"}', effort=effort)


def test_each_kind_of_turn_has_its_header() -> None:
    assert plan.HEADER == {"continued": "continued", "edited": "forked", "regenerated": "forked", "rewritten": "primed"}


@pytest.mark.parametrize(
    ("text", "slash", "command"), [("/cost", True, True), ("/cost", False, False), ("x", True, False)]
)
def test_commands_only_where_the_pool_has_them(text: str, slash: bool, command: bool, tmp_path: Path) -> None:
    settings = WorkerSettings(volume_dir=str(tmp_path), slash_commands=slash)
    assert plan._is_command(settings, [{"type": "text", "text": text}]) is command
