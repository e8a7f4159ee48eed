"""Chat completions on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_worker.events import Arguments, Begin, End, Event, FinishReason, Reasoning, Text, ToolCall, UsageView
from claude_worker.openai.chunks import ChatWriter, Head
from claude_worker.openai.errors import ApiError

USAGE = UsageView(33, 7, 20, 3, 2)
HEAD = Head("ab" * 16, 5, "claude-code")
OPENAI_USAGE = {
    "prompt_tokens": 33, "completion_tokens": 7, "total_tokens": 40,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip


def end(reason: FinishReason = "stop", tip: str = "") -> End:
    return End(reason, USAGE, 0.12345678, "s", tip)


def written(*events: Event, include_usage: bool = False) -> bytes:
    writer = ChatWriter(HEAD, include_usage=include_usage)
    return b"".join(writer.feed(event) for event in events)


def chunks(data: bytes) -> list[dict[str, Any]]:
    parts = data.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part[6:]) for part in parts[:-2] if not part.startswith(":")]


def whole(*events: Event) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ChatWriter(HEAD, include_usage=False).whole(events))
    return answer


def test_a_stream_of_text() -> None:
    got = chunks(written(Begin(), Reasoning("hm"), Text('a"\n'), end()))
    assert [c["choices"][0]["delta"] for c in got] == [
        {"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": 'a"\n'}, {},
    ]  # fmt: skip
    assert [c["choices"][0]["finish_reason"] for c in got] == [None, None, None, "stop"]
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in got} == {
        ("chatcmpl-" + "ab" * 16, "chat.completion.chunk", 5, "claude-code")
    }
    assert got[-1]["x_claude"] == {"cost_usd": 0.123457, "session_id": "s"}


def test_tool_calls_are_streamed_as_openai_does() -> None:
    got = chunks(written(Begin(), ToolCall(0, "c1", "f"), Arguments(0, "{}"), ToolCall(1, "c2", "g"),
                         Arguments(1, '{"a"'), Arguments(1, ":1}"), end("tool_calls")))  # fmt: skip
    deltas = [c["choices"][0]["delta"].get("tool_calls") for c in got]
    assert deltas[1:3] == [
        [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": "{}"}}],
    ]
    assert deltas[5] == [{"index": 1, "function": {"arguments": ":1}"}}]
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_usage_comes_last_and_only_when_it_is_asked_for() -> None:
    got = chunks(written(Text("a"), end(), include_usage=True))
    assert (got[-1]["choices"], got[-1]["usage"]) == ([], OPENAI_USAGE)
    assert all("usage" not in c for c in chunks(written(Text("a"), end())))


def test_the_tip_is_a_comment_right_before_the_end() -> None:
    assert written(end(tip="f" * 32)).endswith(b"}\n\n: tip " + b"f" * 32 + b"\n\ndata: [DONE]\n\n")
    assert b": tip" not in written(end())


def test_a_whole_answer() -> None:
    answer = whole(Begin(), Reasoning("h"), Reasoning("m"), Text("a"), Text("b"), end())
    assert answer == {
        "id": "chatcmpl-" + "ab" * 16, "object": "chat.completion", "created": 5, "model": "claude-code",
        "choices": [{
            "index": 0, "logprobs": None, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "hm"},
        }],
        "usage": OPENAI_USAGE,
        "x_claude": {"cost_usd": 0.123457, "session_id": "s"},
    }  # fmt: skip


@pytest.mark.parametrize(("said", "content"), [([], None), ([Text("see:")], "see:")])
def test_a_whole_answer_with_calls(said: list[Event], content: str | None) -> None:
    answer = whole(*said, ToolCall(0, "c", "f"), Arguments(0, "{"), Arguments(0, "}"), end("tool_calls"))
    message = answer["choices"][0]["message"]
    assert message["content"] == content
    assert message["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def test_an_empty_answer_has_empty_text() -> None:
    assert whole(Begin(), end())["choices"][0]["message"]["content"] == ""


def test_errors_are_openais() -> None:
    writer = ChatWriter(HEAD, include_usage=True)
    error = ApiError(502, "cut", code="c")
    assert writer.failed(error) == b"data: " + writer.error_body(error) + b"\n\ndata: [DONE]\n\n"
    assert json.loads(writer.error_body(error))["error"]["code"] == "c"
