"""Answering a client's side task (such as opencode's title request) by a short-lived CLI process of its own.

It has no tools, no settings and a folder of its own that goes with it, so it leaves no trace in the conversation.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from claude_worker import cli, frames
from claude_worker.content import prompt_blocks
from claude_worker.frames import Frame
from claude_worker.history import Aside
from claude_worker.openai.errors import ApiError
from claude_worker.process import ClaudeProcess, ControlFailed, ProcessGone
from claude_worker.settings import WorkerSettings
from claude_worker.turn import Turn

_BOOT_SECONDS = 60.0


async def answer(settings: WorkerSettings, rule: Aside, model: str, turn: Turn) -> None:
    """Run `turn` in a process of its own. On return, or when cancelled, the process and its folder are gone.

    Raises ApiError when the process cannot answer.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="aside-"))
    process: ClaudeProcess | None = None

    def on_frames(received: list[Frame]) -> None:
        for frame in received:
            turn.feed(frame)

    def on_exit(ended: ClaudeProcess) -> None:
        turn.end(ApiError(502, ended.describe_exit(), code="worker_cli_ended"))

    try:
        env = cli.environment(settings, os.environ, folder)
        command = [cli.find_cli(), *cli.aside_arguments(settings, model)]
        process = await ClaudeProcess.spawn(command, cwd=folder, env=env, on_frames=on_frames, on_exit=on_exit)
        await process.control(_BOOT_SECONDS, subtype="initialize", systemPrompt=rule.system)
        last = max((i for i, m in enumerate(rule.messages) if m.role == "assistant"), default=-1) + 1
        blocks = prompt_blocks(rule.messages[last:], rule.messages[:last])
        process.write(frames.user_message(blocks, turn.uuid))
        await turn.over.wait()
    except (ControlFailed, ProcessGone, OSError) as error:
        raise ApiError(502, f"The side request could not be answered: {error}", code="aside_failed") from error
    finally:
        await asyncio.shield(_clean_up(process, folder))


async def _clean_up(process: ClaudeProcess | None, folder: Path) -> None:
    if process is not None:
        process.kill()
        await process.wait()
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
