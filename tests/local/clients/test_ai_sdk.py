"""The Vercel AI SDK with the provider that opencode uses: tools, streams, an edit, an object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local.clients.asked import Asked, calls, dialogue, told
from local.clients.node import run_node
from local.server import Server

STORY = Path(__file__).with_name("ai_sdk.mjs")
BOTH = calls(("add", {"a": 1, "b": 2}), ("add", {"a": 30}))


@pytest.mark.parametrize("conversation", ["ai-sdk", ""], ids=["named", "by-history"])
def test_the_whole_story(server: Server, asked: Asked, tmp_path: Path, conversation: str) -> None:
    prompt = "\n".join((f"::think {conversation}", "::say Let me see.", BOTH, "::results"))
    told_by_it = json.loads(run_node(tmp_path, STORY.read_text(), server.url, conversation, prompt))
    results = json.dumps(['{"sum":3}', '{"sum":33}'])
    assert told_by_it.pop("tokens") > 0
    assert told_by_it == {
        "whole": results,
        "steps": 2,
        "reasons": ["tool-calls", "stop"],
        "continued": "next",
        "tools": f"Let me see.{results}",
        "edited": "edited",
        "object": {"name": "Ada", "age": 36},
    }
    begin = [*dialogue(prompt, "Let me see."), ("assistant", results)]
    [edited] = asked.with_prompt("::say edited")
    assert told(edited) == [*begin, ("user", "::say edited")]
    again = asked.turns[asked.turns.index(edited) - 1]
    assert told(again)[:-1] == [*begin, *dialogue("::say next", "next", prompt)]
    assert [entry["prompts"] for entry in asked.turns[:2]] == [[prompt]] * 2
