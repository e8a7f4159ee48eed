"""Prompts for the CLI from OpenAI messages."""

from __future__ import annotations

import pytest

from claude_worker.content import prompt_blocks
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ImageUrl, Message, Part


def test_text_and_parts_become_blocks_in_order() -> None:
    image = Part("image_url", image_url=ImageUrl("data:image/png;base64,aGk="))
    blocks = prompt_blocks([Message("user", "a"), Message("user", [Part("text", "b"), image])])
    assert [b["type"] for b in blocks] == ["text", "text", "image"]
    assert blocks[2]["source"] == {"type": "base64", "media_type": "image/png", "data": "aGk="}


def test_context_comes_first_and_is_marked() -> None:
    blocks = prompt_blocks([Message("user", "now")], [Message("user", "then"), Message("assistant", "yes")])
    assert blocks[0]["text"].startswith("<conversation_so_far>")
    assert "user: then\n\nassistant: yes" in blocks[0]["text"]
    assert blocks[1]["text"] == "now"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:text/html;base64,aGk=", "x"])
def test_images_from_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(ApiError, match="image must be"):
        prompt_blocks([Message("user", [Part("image_url", image_url=ImageUrl(url))])])
