"""Frames and requests of one process, in the order that it printed them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from claude_worker import frames
from claude_worker.frames import Frame
from claude_worker.process import ClaudeProcess

_PROGRAM = """
import sys
sys.stdout.write('''{"type": "system", "subtype": "one"}
not a frame
{"type": "control_request", "request_id": "r1", "request": {"subtype": "can_use_tool"}}
{"type": "system", "subtype": "two"}
{"type": "system", "subtype": "three"}
{"type": "control_request", "request_id": "r2", "request": {"subtype": "mcp_message"}}
''')
sys.stdout.flush()
print('{"type": "system", "subtype": %s}' % sys.stdin.readline().strip().replace('"', "'").join('""'), flush=True)
"""


async def printed(tmp_path: Path, **options: Any) -> list[str]:
    seen: list[str] = []

    def on_frames(received: list[Frame]) -> None:
        seen.append("+".join(f.subtype or "" for f in received))

    def on_request(frame: Frame) -> bytes | None:
        seen.append(f"request {frame.request_id}")
        return frames.control_answer(frame) if frame.request_id == "r1" else None

    chosen = {"on_request": on_request} | options
    process = await ClaudeProcess.spawn(
        [sys.executable, "-c", _PROGRAM], cwd=tmp_path, env={}, on_frames=on_frames, **chosen
    )
    await process.wait()
    return seen


async def test_requests_are_told_in_order_with_the_frames(tmp_path: Path) -> None:
    seen = await printed(tmp_path)
    assert seen[:4] == ["one", "request r1", "two+three", "request r2"]
    assert "'behavior':'deny'" in seen[4], "it got its answer"


async def test_without_a_host_for_them_requests_are_answered_at_once(tmp_path: Path) -> None:
    seen = await printed(tmp_path, on_request=None)
    assert seen[:2] == ["one", "two+three"]
    assert "'behavior':'deny'" in seen[2]


@pytest.mark.parametrize("composed", [True, False])
def test_a_prompt_is_taken_as_written_or_as_a_command(composed: bool) -> None:
    line = json.loads(frames.user_message([{"type": "text", "text": "/x"}], "u", composed=composed))
    assert (line["client_composed"], line["uuid"], line["message"]["content"][0]["text"]) == (composed, "u", "/x")


@pytest.mark.parametrize("message", ["{}", '{"content": "text"}', '{"content": 1}', '{"content": [{"type": "text"}]}'])
def test_messages_without_tool_results_have_none(message: str) -> None:
    assert frames.tool_results(frames.decode(b'{"type": "user", "message": %b}' % message.encode())) == []
    assert frames.tool_results(frames.decode(b'{"type": "user"}')) == []
    assert frames.assistant_message(frames.decode(b'{"type": "assistant"}')).content == []
