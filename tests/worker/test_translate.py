"""From the CLI's frames to an answer's events, without a process."""

from __future__ import annotations

from typing import Any

import pytest

from claude_worker.events import Begin, End, Text, UsageView
from claude_worker.translate import Translator
from worker.cli_frames import assistant, begin, event, feed, reasoning, result, stop, text, texts, use


def translator(**options: Any) -> Translator:
    return Translator(**{"tool_activity": "reasoning"} | options)


def test_the_answer_begins_once_even_when_a_turn_has_several_messages() -> None:
    events = feed(translator(), begin(), text("a"), begin("msg_2"), text("b"), result())
    assert events == [Begin(), Text("a"), Text("b"), End("stop", UsageView(33, 7, 20, 3), 0.5, "s")]


def test_texts_around_a_tool_call_are_paragraphs() -> None:
    start = event("content_block_start", content_block={"type": "text", "text": ""})
    t = translator()
    feed(t, begin(), start, text("a"), start, text("b"))
    assert t.text == "a\n\nb"


def test_subagents_show_their_tools_but_not_their_text() -> None:
    events = feed(
        translator(),
        text("secret musings", parent="toolu_1"),
        *use("Read", '{"file_pa', 'th": "/a"}', parent="toolu_1"),
    )
    assert reasoning(events) == "\n> Read: /a\n"
    assert texts(events) == ""


@pytest.mark.parametrize(("how", "shown"), [("off", ("", "")), ("text", ("\n> Read\n", "")),
                                            ("reasoning", ("", "\n> Read\n"))])  # fmt: skip
def test_the_tools_work_is_shown_as_the_pool_wants_it(how: str, shown: tuple[str, str]) -> None:
    events = feed(translator(tool_activity=how), *use("Read", "{}"))
    assert (texts(events), reasoning(events)) == shown


def test_failed_tools_say_so() -> None:
    failed = [{"type": "tool_result", "is_error": True, "content": "no such file", "tool_use_id": "t"}]
    events = feed(translator(), {"type": "user", "message": {"role": "user", "content": failed}})
    assert reasoning(events) == "\n> failed: no such file\n"


@pytest.mark.parametrize(("before", "total", "cost"), [(0.0, 0.5, 0.5), (0.4, 0.5, 0.1), (2.0, 0.5, 0.5)])
def test_the_clis_cumulative_cost_becomes_the_turns(before: float, total: float, cost: float) -> None:
    t = translator()
    t.cost_before = before
    end = feed(t, text("a"), result(total_cost_usd=total))[-1]
    assert isinstance(end, End)
    assert [end.cost_usd, t.cost_usd, t.cost_total] == pytest.approx([cost, cost, total])


@pytest.mark.parametrize(
    ("reason", "finish"), [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")]
)
def test_finish_reasons(reason: str, finish: str) -> None:
    t = translator()
    end = feed(t, text("a"), result(stop_reason=reason))[-1]
    assert isinstance(end, End)
    assert (end.reason, t.finish_reason) == (finish, finish)


def test_an_answer_that_was_never_streamed_is_taken_from_the_assistant_frames() -> None:
    """The CLI falls back to a request without streaming when streams keep breaking."""
    t = translator()
    said = {"type": "text", "text": "b"}
    read = {"type": "tool_use", "name": "Read", "id": "toolu_1", "input": {"file_path": "/a"}}
    events = feed(
        t,
        begin(),
        text("a"),
        assistant({"type": "text", "text": "a"}),
        assistant(said, message="msg_2", uuid="u2"),
        assistant(read, message="msg_2", uuid="u3"),
    )
    assert (t.text, reasoning(events), t.last_uuid) == ("a\n\nb", "\n> Read: /a\n", "u3")


def test_what_the_cli_says_itself_in_the_models_place_is_not_shown() -> None:
    assert feed(translator(), assistant({"type": "text", "text": "API Error"}, model="<synthetic>")) == []


def test_an_answer_that_only_the_result_tells_is_shown() -> None:
    assert texts(feed(translator(), result(result="from a command"))) == "from a command"


def test_an_error_result_gives_no_end() -> None:
    t = translator()
    assert feed(t, text("half"), result(is_error=True, api_error_status=529, result="overloaded"))[2:] == []
    assert t.error is not None
    assert (t.error.status, t.error.code, t.finished) == (503, "model_overloaded", True)


@pytest.mark.parametrize(("fields", "code"), [({"subtype": "error_max_turns"}, "max_turns"),
                                              ({"result": None, "errors": ["e"]}, "model_error")])  # fmt: skip
def test_other_failures(fields: dict[str, Any], code: str) -> None:
    t = translator()
    feed(t, result(is_error=True, **fields))
    assert t.error is not None
    assert t.error.code == code


def test_an_interrupted_turn_is_aborted_not_failed_and_counts_what_was_streamed() -> None:
    t = translator()
    interrupted = result(
        is_error=True, subtype="error_during_execution", terminal_reason="aborted_tools", usage={"input_tokens": 0}
    )
    events = feed(t, begin(prompt=9), text("a"), *stop("end_turn", output=4), interrupted)
    assert events == [Begin(), Text("a")]
    assert (t.aborted, t.error, t.usage, t.cost_usd) == (True, None, UsageView(9, 4), 0.5)


# -- structured output -------------------------------------------------------------------------------------------


def test_of_a_structured_answer_only_the_object_is_text() -> None:
    t = translator(tool_activity="text", structured=True)
    given = use("StructuredOutput", '{"a": 1}')
    events = feed(t, begin(), text("Let me think"), *use("Read", "{}"), *given, result(structured_output={"a": [1]}))
    assert (texts(events), t.text, reasoning(events)) == ('{"a": [1]}', '{"a": [1]}', "\n> Read\n")
    assert isinstance(events[-1], End)


@pytest.mark.parametrize(
    "fields",
    [{}, {"structured_output": None}, {"is_error": True, "subtype": "error_max_structured_output_retries"}],
)
def test_an_answer_without_the_wanted_object_is_an_error(fields: dict[str, Any]) -> None:
    t = translator(structured=True)
    assert feed(t, begin(), text("no"), result(**fields)) == [Begin()]
    assert t.error is not None
    assert (t.error.status, t.error.code) == (422, "response_format_not_met")


def test_a_failure_of_the_model_is_no_fault_of_the_format() -> None:
    t = translator(structured=True)
    feed(t, result(is_error=True, api_error_status=429))
    assert t.error is not None
    assert t.error.status == 429
