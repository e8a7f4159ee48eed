"""Log lines of router and operator: one an event on standard error, as text (`event key=value …`) or as JSON.

Never in it: keys, tokens, messages, conversation ids as the client sent them (the derived name stands for them).
Fields come with `extra={"fields": {…}}`.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00 INFO request status=200 …`"""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        parts = [stamp, record.levelname, record.getMessage(), *(f"{k}={_word(v)}" for k, v in fields.items())]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


def _word(value: Any) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (Unix seconds), `level`, `logger`, `event`, the event's fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(log_format: str, level: int = logging.INFO) -> None:
    """Send everything that is logged in this process, uvicorn's lines included, to standard error in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
