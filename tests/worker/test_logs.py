"""What the worker's log holds, and what not."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from claude_worker.logs import configure


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """The root logger as it was."""
    root, names = logging.getLogger(), ("uvicorn", "uvicorn.error", "uvicorn.access")
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_the_servers_own_chatter_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").warning("something is wrong")
    logging.getLogger("claude_worker").info("of our own")
    shown = capsys.readouterr().err
    assert "Started" not in shown
    assert "GET" not in shown
    assert "something is wrong" in shown
    assert "of our own" in shown
