"""A transcript of Claude Code's as messages of OpenAI's."""

from __future__ import annotations

from typing import Any

import msgspec

from claude_router.messages import Line, messages


def shown(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.to_builtins(messages(msgspec.convert(list(lines), list[Line])))
    return found


def said(uuid: str, message: str, **block: Any) -> dict[str, Any]:
    return {"role": "assistant", "uuid": uuid, "message_id": message, "content": [block]}


def asked(uuid: str, *blocks: Any) -> dict[str, Any]:
    return {"role": "user", "uuid": uuid, "content": list(blocks)}


def result(call: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content}


def test_a_plain_talk() -> None:
    assert shown(
        {"role": "user", "uuid": "u1", "content": "hello"},
        said("a1", "m1", type="thinking", thinking="hm", signature="s"),
        said("a2", "m1", type="text", text="Hello, "),
        said("a3", "m1", type="text", text="you."),
        asked("u2", {"type": "text", "text": "a"}, {"type": "text", "text": "b"}),
    ) == [
        {"id": "u1", "role": "user", "content": "hello"},
        {"id": "a3", "role": "assistant", "content": "Hello, you.", "reasoning_content": "hm"},
        {"id": "u2", "role": "user", "content": "a\nb"},
    ]


def test_parallel_tools_are_one_message_although_results_come_in_between() -> None:
    found = shown(
        said("a1", "m1", type="tool_use", id="c1", name="Bash", input={"command": "ls"}),
        asked("u1", result("c1", "a.txt")),
        said("a2", "m1", type="tool_use", id="c2", name="Read", input={}),
        asked("u2", result("c2", [{"type": "text", "text": "x"}, {"type": "image"}, {"type": "text", "text": "y"}])),
        said("a3", "m2", type="text", text="done"),
    )
    assert [(m["role"], m["id"]) for m in found] == [
        ("assistant", "a2"), ("tool", "u1"), ("tool", "u2"), ("assistant", "a3"),
    ]  # fmt: skip
    assert found[0]["content"] is None
    assert [(c["id"], c["type"], c["function"]) for c in found[0]["tool_calls"]] == [
        ("c1", "function", {"name": "Bash", "arguments": '{"command":"ls"}'}),
        ("c2", "function", {"name": "Read", "arguments": "{}"}),
    ]
    assert (found[1]["tool_call_id"], found[1]["content"]) == ("c1", "a.txt")
    assert found[2]["content"] == "x\n[image]\ny"


def test_images_and_documents() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}}
    (message,) = shown(asked("u", {"type": "text", "text": "look"}, image, pdf, {"type": "later"}))
    assert message["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "text", "text": "[later]"},
    ]


def test_results_and_words_of_one_message_and_blocks_unknown_here() -> None:
    found = shown(
        asked("u", result("c", ""), {"type": "text", "text": "go on"}),
        said("a", "m", type="server_tool_use", id="x"),
        said("b", "", type="text", text="1"),
        said("c", "", type="text", text="2"),
    )
    assert [(m["role"], m["content"]) for m in found] == [
        ("tool", ""), ("user", "go on"), ("assistant", None), ("assistant", "1"), ("assistant", "2"),
    ]  # fmt: skip
