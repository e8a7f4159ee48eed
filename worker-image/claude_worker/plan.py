"""Getting the CLI to where a turn begins: stay, go on with parked calls, fork at a node, or begin an empty session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from claude_worker import cli, credential, frames
from claude_worker.commands import is_command
from claude_worker.content import Block, mcp_content, message_blocks, prompt_blocks, tool_result_block
from claude_worker.engine import Engine
from claude_worker.history import ROOT, Kind, Node, Run
from claude_worker.ledger import Ledger
from claude_worker.openai.request import ChatRequest, Message
from claude_worker.prefixes import EMPTY
from claude_worker.process import ClaudeProcess, ControlFailed, ProcessGone
from claude_worker.remote import inline_messages
from claude_worker.settings import WorkerSettings
from claude_worker.setup import Setup
from claude_worker.status import Status
from claude_worker.turn import Turn

HEADER: dict[Kind, str] = {
    "continued": "continued",
    "edited": "forked",
    "regenerated": "forked",
    "rewritten": "primed",
}
"""What `X-Claude-History` says of each kind of turn."""

_NOT_RUN = "The user went on without running this tool."
EFFORTS = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
"""OpenAI's levels of effort, and the CLI's for each."""

Send = Callable[[Turn], None]


class NodeLost(Exception):
    """A node's message is not in the CLI's transcripts any more; the ledger has forgotten it."""


def wanted(request: ChatRequest, settings: WorkerSettings) -> Setup:
    """How this request needs the CLI's process set up. Raises ApiError (400)."""
    model = settings.resolve(request.model)
    tools = model.tools if model else "own"
    client = () if tools == "own" else tuple(sorted(request.client_tools(), key=lambda tool: tool.name))
    schema = request.schema()
    return Setup(
        tools,
        client,
        msgspec.json.encode(schema, order="sorted").decode() if schema is not None else "",
        EFFORTS.get(request.reasoning_effort or "", ""),
    )


async def place(
    engine: Engine, ledger: Ledger, settings: WorkerSettings, status: Status, run: Run, request: ChatRequest
) -> tuple[ClaudeProcess, Send]:
    """A CLI at `run.base`, idle, set up as the request wants it; and what sends it the prompt.

    Raises ApiError (400), NodeLost, ControlFailed, ProcessGone, OSError.
    """
    setup = wanted(request, settings)
    model = settings.resolve(request.model)
    node = ledger.nodes.get(run.base, ROOT)
    if (going_on := _go_on(engine, ledger, run, node, setup)) is not None:
        return going_on
    if engine.parked is not None:
        await engine.unpark()
    blocks = await _blocks(run, node, remote=settings.allow_remote_images)
    process = await _move(engine, ledger, settings, run, node, setup, request.system_text())
    await engine.use_model(process, model.model if model else "")
    await status.until_cli_idle()
    credential.renew(process, settings)

    def send(turn: Turn) -> None:
        process.write(frames.user_message(blocks, turn.uuid, composed=not _is_command(settings, blocks)))

    return process, send


def _go_on(engine: Engine, ledger: Ledger, run: Run, node: Node, setup: Setup) -> tuple[ClaudeProcess, Send] | None:
    """When the CLI waits for just these results: give them to it."""
    parked, process, bridge = engine.parked, engine.process, engine.bridge
    waits = parked is not None and run.base == ledger.state.tip and ledger.state.clean and setup == engine.setup
    if not waits or not node.calls or any(m.role != "tool" for m in run.new):
        return None
    if process is None or bridge is None or parked is None:
        return None
    results = {m.tool_call_id or "": mcp_content(m) for m in run.new}

    def send(turn: Turn) -> None:
        turn.prompt, turn.started = parked.prompt, True
        turn.put(turn.translator.resumed(parked.translator))
        engine.unparked()
        bridge.resolve(results)
        turn.judge()

    return process, send


async def _move(
    engine: Engine, ledger: Ledger, settings: WorkerSettings, run: Run, node: Node, setup: Setup, system: str
) -> ClaudeProcess:
    state = ledger.state
    there = run.base == state.tip and (state.clean or not run.exact)
    if there and not node.calls:
        return await engine.stay(setup, system)
    if node is ROOT:
        return await engine.move(ROOT, setup, system)
    try:
        if cli.transcript_path(settings.config_dir, node.session) is None:
            raise ProcessGone("its transcript is gone")
        return await engine.move(node, setup, system)
    except (ProcessGone, ControlFailed) as error:
        ledger.nodes.pop(node.prefix, None)
        state.tip, state.clean = EMPTY, False
        state.fork = None
        raise NodeLost(f"message {node.uuid} of {node.session} cannot be resumed: {error}") from error


async def _blocks(run: Run, node: Node, *, remote: bool) -> list[Block]:
    """The prompt. Results of calls come first, as the Messages API wants them; a call without one is told as not run.

    Raises ApiError (400) for an image that cannot be had.
    """
    new, context = await inline_messages(run.new, remote), await inline_messages(run.context, remote)
    rewritten = run.kind == "rewritten"
    results = _results(context if rewritten else new, node)
    given = {m.tool_call_id for m in results}
    blocks: list[Block] = [tool_result_block(m) for m in results]
    blocks += [
        {"type": "tool_result", "tool_use_id": i, "is_error": True, "content": _NOT_RUN}
        for i in node.calls
        if i not in given
    ]
    if rewritten:
        return blocks + prompt_blocks(new, context[len(results) :])
    return blocks + [block for message in new[len(results) :] for block in message_blocks(message)]


def _results(messages: Sequence[Message], node: Node) -> list[Message]:
    """Those at the beginning that are results of the node's calls."""
    return list(takewhile(lambda m: m.role == "tool" and m.tool_call_id in node.calls, messages))


def _is_command(settings: WorkerSettings, blocks: list[dict[str, Any]]) -> bool:
    return settings.slash_commands and len(blocks) == 1 and is_command(blocks[0].get("text", ""))
