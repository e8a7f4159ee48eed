"""The log's two formats."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from claude_router import logs


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """`configure` takes the root logger over; it is put back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers, root.level = before, level


def fail() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("somewhere").exception("it broke", extra={"fields": {"conversation": "conv-a"}})


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logs.log_access("GET", "/x", 200, 0.0123, conversation="conv-a", error=None, note="two words", empty="")
    stamp, line = capsys.readouterr().err.split(" INFO ")
    assert len(stamp) == 19
    assert line == "request method=GET route=/x status=200 ms=12.3 conversation=conv-a note='two words' empty=''\n"


def test_a_line_break_in_a_value_does_not_make_a_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    logs.log_access("GET", "/x", 200, 0.0, note="a\nINFO forged")
    assert capsys.readouterr().err.count("\n") == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logs.log_access("GET", "/x", 200, 0.0123, conversation="conv-a", error=None)
    fail()
    access, failure = map(json.loads, capsys.readouterr().err.splitlines())
    assert isinstance(access.pop("time"), float)
    assert access == {
        "level": "info", "logger": "claude_router.access", "event": "request", "method": "GET", "route": "/x",
        "status": 200, "ms": 12.3, "conversation": "conv-a",
    }  # fmt: skip
    assert (failure["level"], failure["event"], failure["conversation"]) == ("error", "it broke", "conv-a")
    assert "ValueError: boom" in failure["exception"]


def test_an_exceptions_traceback_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    fail()
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.rstrip().endswith("ERROR it broke conversation=conv-a")
    assert rest[-1] == "ValueError: boom"


@pytest.mark.parametrize("route", ["/health", "/metrics"])
def test_probes_are_not_logged_unless_asked_for(capsys: pytest.CaptureFixture[str], route: str) -> None:
    logs.configure("text")
    logs.log_access("GET", route, 200, 0.0)
    assert capsys.readouterr().err == ""
    logs.configure("text", logging.DEBUG)
    logs.log_access("GET", route, 200, 0.0)
    assert route in capsys.readouterr().err
