"""From the CLI's frames to OpenAI chunks, without a process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker import frames
from claude_worker.openai.chunks import ChunkWriter
from claude_worker.translate import Translator, describe_call


def translator(**options: Any) -> Translator:
    chosen: dict[str, Any] = {"tool_activity": "reasoning", "include_usage": False} | options
    return Translator(ChunkWriter("chatcmpl-1", 1, "claude-code"), **chosen)


def feed(t: Translator, *lines: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks that the lines give, decoded."""
    data = b"".join(t.feed(frames.decode(json.dumps(line).encode())) for line in lines).decode()
    return [json.loads(part[6:]) for part in data.split("\n\n") if part and part != "data: [DONE]"]


def event(kind: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": "stream_event", "parent_tool_use_id": parent, "event": {"type": kind, "index": 0, **fields}}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return event("content_block_delta", delta={"type": "text_delta", "text": said}, **fields)


def result(**fields: Any) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": False, "stop_reason": "end_turn", "result": "x",
            "total_cost_usd": 0.5, "session_id": "s",
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3,
                      "output_tokens": 7}} | fields  # fmt: skip


def deltas(chunks: list[dict[str, Any]], name: str) -> str:
    return "".join(c["choices"][0]["delta"].get(name, "") for c in chunks if c["choices"])


def test_the_role_comes_once_even_when_a_turn_has_several_messages() -> None:
    chunks = feed(translator(), event("message_start"), text("a"), event("message_start"), text("b"), result())
    assert [c["choices"][0]["delta"].get("role") for c in chunks].count("assistant") == 1
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "stop"


def test_texts_around_a_tool_call_are_paragraphs() -> None:
    start = event("content_block_start", content_block={"type": "text", "text": ""})
    chunks = feed(translator(), event("message_start"), start, text("a"), start, text("b"))
    assert deltas(chunks, "content") == "a\n\nb"


def test_subagents_show_their_tools_but_not_their_text() -> None:
    use = event("content_block_start", "toolu_1", content_block={"type": "tool_use", "name": "Read", "id": "t"})
    given = event(
        "content_block_delta", "toolu_1", delta={"type": "input_json_delta", "partial_json": '{"file_path": "/a"}'}
    )
    inner = event("content_block_delta", "toolu_1", delta={"type": "text_delta", "text": "secret musings"})
    chunks = feed(translator(), inner, use, given, event("content_block_stop", "toolu_1"))
    assert deltas(chunks, "reasoning_content") == "\n> Read: /a\n"
    assert deltas(chunks, "content") == ""


def test_failed_tools_say_so() -> None:
    failed = [{"type": "tool_result", "is_error": True, "content": "no such file"}]
    chunks = feed(translator(), {"type": "user", "message": {"role": "user", "content": failed}})
    assert deltas(chunks, "reasoning_content") == "\n> failed: no such file\n"


def test_usage_counts_cached_tokens_in_the_prompt() -> None:
    chunks = feed(translator(include_usage=True), text("a"), result())
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (33, 7, 40)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 20, "cache_write_tokens": 3}


@pytest.mark.parametrize(("before", "total", "cost"), [(0.0, 0.5, 0.5), (0.4, 0.5, 0.1), (2.0, 0.5, 0.5)])
def test_the_clis_cumulative_cost_becomes_the_turns(before: float, total: float, cost: float) -> None:
    t = translator()
    t.cost_before = before
    chunks = feed(t, text("a"), result(total_cost_usd=total))
    assert chunks[-1]["x_claude"]["cost_usd"] == pytest.approx(cost)


@pytest.mark.parametrize(
    ("stop", "finish"), [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")]
)
def test_finish_reasons(stop: str, finish: str) -> None:
    assert feed(translator(), text("a"), result(stop_reason=stop))[-1]["choices"][0]["finish_reason"] == finish


def test_an_answer_that_was_never_streamed_is_taken_from_the_assistant_frame() -> None:
    """The CLI falls back to a request without streaming when streams keep breaking."""
    start = event("message_start") | {}
    start["event"]["message"] = {"id": "msg_1"}
    streamed = {
        "type": "assistant",
        "uuid": "u1",
        "message": {"id": "msg_1", "content": [{"type": "text", "text": "a"}]},
    }
    whole = {"type": "assistant", "uuid": "u2", "message": {"id": "msg_2", "content": [{"type": "text", "text": "b"}]}}
    t = translator()
    assert deltas(feed(t, start, text("a"), streamed, whole), "content") == "a\n\nb"
    assert t.last_uuid == "u2"


def test_an_error_result_gives_no_finish() -> None:
    t = translator()
    assert feed(t, text("half"), result(is_error=True, api_error_status=529, result="overloaded"))[2:] == []
    assert t.error is not None
    assert (t.error.status, t.error.code) == (503, "model_overloaded")
    assert t.finished


def test_an_interrupted_turn_is_aborted_not_failed() -> None:
    t = translator()
    feed(t, result(is_error=True, subtype="error_during_execution", terminal_reason="aborted_tools"))
    assert (t.aborted, t.error) == (True, None)


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [("Bash", '{"command": "ls\\n-l", "description": "d"}', "Bash: ls -l"), ("Read", '{"file_path": "/a"}', "Read: /a"),
     ("Odd", "{}", "Odd"), ("Torn", '{"comm', "Torn"), ("List", "[1]", "List")],
)  # fmt: skip
def test_tool_calls_are_told_in_one_line(name: str, given: str, line: str) -> None:
    assert describe_call(name, given) == line
    assert len(describe_call("Bash", json.dumps({"command": "x" * 999}))) == 200
