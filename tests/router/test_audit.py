"""The audit log: what a line says, what it never says, and where it goes."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from claude_router import audit
from claude_router.audit import NOTHING, Line, Spent, spent_in
from claude_worker.dialect import DIALECTS, Dialect
from claude_worker.events import End, Event, Text, UsageView
from claude_worker.openai.chunks import Head

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "hello"}],
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {"input": "hello", "user": 'a "usage":{"input_tokens":9'},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9},
}  # fmt: skip
USAGE = UsageView(prompt=120, completion=7, cached=100, cache_written=15)
EVENTS: list[Event] = [
    Text('the model says "usage":{"input_tokens":1 and "x_claude":{"cost_usd":2'),
    End("stop", USAGE, cost_usd=0.0125, tip="a" * 32),
]


def line(**more: Any) -> Line:
    values: dict[str, Any] = dict.fromkeys(Line.__struct_fields__)
    fixed = {"time": "2030-01-31T12:00:00.000000Z", "method": "POST", "route": "/x", "status": 200, "latency_ms": 1.5}
    return Line(**{**values, **fixed, **more})


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
def test_tokens_and_cost_are_read_from_the_end_of_every_kind_of_answer(dialect: Dialect) -> None:
    request = dialect.parse(json.dumps({"model": "claude-code", **REQUESTS[dialect.path]}).encode())
    head = Head(id="1", created=1, model="claude-code", conversation="c")
    expected = Spent(120, 7, 100, 0.0125)
    assert spent_in(dialect.writer(head, request).whole(EVENTS)[-audit.TAIL :]) == expected
    writer = dialect.writer(head, request)
    stream = b"".join(writer.feed(event) for event in EVENTS)
    assert spent_in(stream[-audit.TAIL :]) == expected


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n\n", b'{"error":{"message":"x"}}', b'"usage":null', b"\xff\xfe"])
def test_an_answer_that_says_nothing(tail: bytes) -> None:
    assert spent_in(tail) == NOTHING


def test_a_stream_without_usage_still_tells_its_cost() -> None:
    assert spent_in(b'"x_claude":{"cost_usd":1e-05,"session_id":"s"}}\n\ndata: [DONE]\n\n') == Spent(cost_usd=1e-05)


def test_the_document_names_every_field_and_no_other() -> None:
    documented = re.findall(r"^\| `([a-z_]+)` \| ([a-z]+)( or null)? \|", DOCUMENT.read_text(), flags=re.MULTILINE)
    schema = msgspec.json.schema(Line)["$defs"]["Line"]["properties"]
    found = {}
    for name, described in schema.items():
        types = [described["type"]] if "type" in described else [t["type"] for t in described["anyOf"]]
        found[name] = ([t for t in types if t != "null"], "null" in types)
    assert [(name, ([kind], bool(null))) for name, kind, null in documented] == list(found.items())


def test_it_is_off_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with audit.writing("") as on:
        assert not on
        assert audit.audit.handlers == []


def test_lines_in_order_into_a_file_that_may_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text("what was there\n")
    for number in range(2):
        with audit.writing(str(path)) as on:
            assert on
            for i in range(50):
                audit.write(line(status=200 + i, model="grüße\nzwei"))
        first, *lines = path.read_text().splitlines()
        assert first == "what was there"
        assert [json.loads(text)["status"] for text in lines] == [*range(200, 250)] * (number + 1)
    assert json.loads(lines[0])["model"] == "grüße\nzwei"
    with audit.writing(str(path)):
        path.rename(tmp_path / "audit.log.1")
        audit.write(line())
    assert len(path.read_text().splitlines()) == 1


def test_on_stdout_and_in_no_other_log(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with audit.writing(audit.STDOUT):
        audit.write(line(team="red"))
    out = capsys.readouterr().out
    assert json.loads(out)["team"] == "red"
    assert list(json.loads(out)) == list(Line.__struct_fields__)
    assert not [r for r in caplog.records if r.name == "claude_router.audit"]


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with (
        pytest.raises(audit.CannotWrite, match="no-such-folder"),
        audit.writing(str(tmp_path / "no-such-folder" / "x")),
    ):
        pass


def test_a_full_disk_costs_lines_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with audit.writing("/dev/full"):
        audit.write(line())
    assert any("could not be written" in r.getMessage() for r in caplog.records)
    assert "red" not in caplog.text
