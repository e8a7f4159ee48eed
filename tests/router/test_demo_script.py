"""What the scripted model answers, without HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_router.demo.script import Step, answer

Blocks = list[dict[str, Any]]


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def used(*calls: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": c, "name": "f", "input": {}} for c in calls]}


def results(*contents: Any, text: str = "") -> dict[str, Any]:
    blocks: Blocks = [{"type": "tool_result", "tool_use_id": f"t{i}", "content": c} for i, c in enumerate(contents)]
    return {"role": "user", "content": blocks + ([{"type": "text", "text": text}] if text else [])}


PROMPT = said('::say one\n::tools f {"a": {"b": 1}} | g | h {"c": "x | y"}\n::results\n::tool g\n::say end')


def test_several_calls_in_one_message() -> None:
    message = answer({"messages": [PROMPT]})
    assert message.steps == (Step("say", "one"),)
    assert message.calls == (("f", {"a": {"b": 1}}), ("g", {}), ("h", {"c": "x | y"}))
    assert message.stop_reason == "tool_use"


def test_its_steps_go_on_after_all_of_them() -> None:
    asked = [PROMPT, used("1", "2", "3"), results("r1", [{"type": "text", "text": "r2"}, {"type": "image"}], None)]
    message = answer({"messages": asked})
    assert message.steps == (Step("say", json.dumps(["r1", "r2[image]", ""])),)
    assert message.calls == (("g", {}),)
    last = answer({"messages": [*asked, used("4"), results("r4")]})
    assert (last.steps, last.stop_reason) == ((Step("say", "end"),), "end_turn")


def test_results_count_from_the_last_prompt_on() -> None:
    asked = [PROMPT, used("1", "2", "3"), results("old", "old"), used("4"), results("new", text="::results")]
    assert answer({"messages": asked}).steps == (Step("say", '["new"]'),)
    assert answer({"messages": [*asked, said("::results")]}).steps == (Step("say", "[]"),)


@pytest.mark.parametrize("words", ["[structured-output-enforce] You MUST", "<system-reminder>", "[Request interrupted"])
def test_what_the_cli_adds_is_no_prompt(words: str) -> None:
    assert answer({"messages": [said("::say hello"), said(words)]}).steps == (Step("say", "hello"),)


def test_earlier_prompts_are_recalled() -> None:
    assert answer({"messages": [said("a"), said("::recall")]}).steps == (Step("say", '["a"]'),)
