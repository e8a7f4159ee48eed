"""Prompts for the CLI from OpenAI messages."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_worker.content import (
    image_type,
    is_remote,
    mcp_content,
    message_blocks,
    prompt_blocks,
    tool_result_block,
)
from claude_worker.openai.errors import ApiError
from claude_worker.openai.messages import CallFunction, CallPart, FileData, ImageUrl, Message, Part

PNG = b"\x89PNG\r\n\x1a\n\x00"
JPEG = b"\xff\xd8\xff\xe0"
GIF = b"GIF89a\x01"
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{encoded(data)}"


def image(url: str) -> Part:
    return Part("image_url", image_url=ImageUrl(url))


def file(data: str, name: str | None = None) -> Part:
    return Part("file", file=FileData(filename=name, file_data=data))


def user(*parts: Part) -> Message:
    return Message("user", list(parts))


def calls(*given: tuple[str, str, str], text: str | None = None) -> Message:
    made = [CallPart(call_id, "function", CallFunction(name, arguments)) for call_id, name, arguments in given]
    return Message("assistant", text, tool_calls=made)


def base64_image(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded(data)}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_text_and_parts_become_blocks_in_order() -> None:
    blocks = prompt_blocks([Message("user", "a"), user(Part("text", "b"), image(uri(PNG, "image/png")))])
    assert blocks == [text("a"), text("b"), base64_image(PNG)]


def test_blank_texts_are_left_out() -> None:
    assert message_blocks(user(Part("text", " \n"), Part("text", "a"), Part("text", ""))) == [text("a")]
    assert message_blocks(Message("user", " ")) == []
    assert message_blocks(Message("assistant", None)) == []


# -- images and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:text/html;base64,aGk=", "x", "", "data:image/png,aGk="])
def test_images_from_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(ApiError, match="image must be"):
        prompt_blocks([user(image(url))])


@pytest.mark.parametrize("url", ["http://example.test/a.png", "HTTPS://example.test/a.png"])
def test_remote_images_are_refused_unless_they_were_fetched_before(url: str) -> None:
    assert is_remote(url)
    with pytest.raises(ApiError) as caught:
        prompt_blocks([user(image(url))])
    assert (caught.value.status, caught.value.code) == (400, "remote_image_not_allowed")


@pytest.mark.parametrize("data", ["a", "aGk", "a$k=", "é", "", "aGk=aGk="])
def test_images_that_are_not_base64_are_refused(data: str) -> None:
    with pytest.raises(ApiError) as caught:
        message_blocks(user(image(f"data:image/png;base64,{data}")))
    assert (caught.value.status, caught.value.code) == (400, "invalid_image")


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp"), (b"RIFF", None), (b"", None)],
)
def test_images_are_known_by_their_bytes(data: bytes, media_type: str | None) -> None:
    assert image_type(data) == media_type
    if media_type:
        wrongly = "image/gif" if media_type != "image/gif" else "image/png"
        assert message_blocks(user(image(uri(data, wrongly)))) == [base64_image(data, media_type)]


def test_a_data_uri_may_have_parameters_spaces_and_old_names() -> None:
    spaced = f"data:image/jpg;name=a.jpg;base64,{encoded(JPEG)[:3]}\n {encoded(JPEG)[3:]}"
    assert message_blocks(user(image(spaced))) == [base64_image(JPEG, "image/jpeg")]
    assert message_blocks(user(image("data:image/webp;base64,aGk="))) == [base64_image(b"hi", "image/webp")]


@pytest.mark.parametrize("given", [uri(b"%PDF-1.4 x", "application/pdf"), encoded(b"%PDF-1.4 x")])
def test_a_pdf_is_a_document(given: str) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": encoded(b"%PDF-1.4 x")}
    assert message_blocks(user(file(given, "a.pdf"))) == [{"type": "document", "source": source, "title": "a.pdf"}]


@pytest.mark.parametrize("given", [uri("für".encode(), "text/plain;charset=utf-8"), encoded("\ufefffür".encode())])
def test_a_text_file_is_text(given: str) -> None:
    assert message_blocks(user(file(given, "a.txt"))) == [text("[file: a.txt]\nfür\n[end of file: a.txt]")]


def test_a_file_may_be_an_image_and_nameless() -> None:
    assert message_blocks(user(file(encoded(PNG)))) == [base64_image(PNG)]
    assert message_blocks(user(file(encoded(b"x")))) == [text("[file: file]\nx\n[end of file: file]")]


@pytest.mark.parametrize(
    ("data", "code"), [(encoded(b"\xff\xfe\x00"), "unsupported_file"), (encoded(b"a\x00"), "unsupported_file"),
                       ("%%", "invalid_file")]
)  # fmt: skip
def test_other_files_are_refused(data: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        message_blocks(user(file(data, "a.bin")))
    assert (caught.value.status, caught.value.code) == (400, code)


# -- tool results ------------------------------------------------------------------------------------------------------


def test_a_result_for_a_prompt_and_for_mcp() -> None:
    message = Message("tool", [Part("text", "12:00"), image(uri(PNG, "image/png"))], tool_call_id="a")
    assert tool_result_block(message) == {
        "type": "tool_result", "tool_use_id": "a", "content": [text("12:00"), base64_image(PNG)]
    }  # fmt: skip
    assert mcp_content(message) == [text("12:00"), {"type": "image", "data": encoded(PNG), "mimeType": "image/png"}]


def test_an_empty_result() -> None:
    message = Message("tool", "", tool_call_id="a")
    assert (tool_result_block(message)["content"], mcp_content(message)) == ([], [])


def test_results_and_what_the_user_says_after_them_are_one_prompt() -> None:
    new = [Message("tool", "1", tool_call_id="a"), Message("tool", "2", tool_call_id="b"), Message("user", "go on")]
    blocks = prompt_blocks(new)
    assert [b["type"] for b in blocks] == ["tool_result", "tool_result", "text"]


# -- context -----------------------------------------------------------------------------------------------------------


def test_context_comes_first_and_is_marked() -> None:
    blocks = prompt_blocks([Message("user", "now")], [Message("user", "then"), Message("assistant", "yes")])
    assert blocks[0]["text"].startswith("<conversation_so_far>")
    assert "user: then\n\nassistant: yes" in blocks[0]["text"]
    assert blocks[1] == text("now")


def test_context_tells_calls_and_results() -> None:
    context = [
        Message("user", "time?"),
        calls(("a", "now", '{"zone":"UTC"}'), ("b", "day", "{}"), text="I look."),
        Message("tool", "12:00", tool_call_id="a"),
        Message("tool", [Part("text", "Monday")], tool_call_id="b"),
        Message("tool", "?", tool_call_id="lost"),
    ]
    told = prompt_blocks([Message("user", "thanks")], context)[0]["text"]
    assert (
        'user: time?\n\nassistant: I look.\n\nassistant called now (a): {"zone":"UTC"}\n\nassistant called day (b): {}'
        "\n\nresult of now (a): 12:00\n\nresult of day (b): Monday\n\nresult of a tool (lost): ?\n"
    ) in told


def test_the_images_and_files_of_the_context_follow_it_by_reference() -> None:
    context = [
        user(Part("text", "look"), image(uri(PNG, "image/png")), Part("text", "at this")),
        user(file(encoded(b"x"), "x.txt"), image(uri(GIF, "image/gif"))),
    ]
    blocks = prompt_blocks([user(image(uri(JPEG, "image/jpeg")))], context)
    assert "user: look\n[image 1]\nat this\n\nuser: [file 1]\n[image 2]\n" in blocks[0]["text"]
    assert blocks[1:] == [
        text("[image 1]:"),
        base64_image(PNG),
        text("[file 1]:"),
        text("[file: x.txt]\nx\n[end of file: x.txt]"),
        text("[image 2]:"),
        base64_image(GIF, "image/gif"),
        base64_image(JPEG, "image/jpeg"),
    ]


def test_results_of_calls_in_the_context_are_told_too() -> None:
    context = [user(image(uri(PNG, "image/png"))), calls(("a", "shoot", "{}"))]
    result = Message("tool", [Part("text", "done"), image(uri(GIF, "image/gif"))], tool_call_id="a")
    blocks = prompt_blocks([result], context)
    assert blocks[-3:] == [
        text("result of shoot (a): done\n[image 2]"),
        text("[image 2]:"),
        base64_image(GIF, "image/gif"),
    ]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.booleans())
def test_the_users_words_stand_in_the_context_as_they_are(said: list[str], in_parts: bool) -> None:
    context = [user(Part("text", words)) if in_parts else Message("user", words) for words in said]
    told = prompt_blocks([Message("user", "now")], context)[0]["text"]
    assert "\n\n" + "\n\n".join(f"user: {words}" for words in said) + "\n" in told
