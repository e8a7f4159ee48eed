"""What the scripted model was asked during one test, as a client's user would tell it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from local.harness import Json, Model

PREFIX = "mcp__client__"
"""What the CLI puts before the names of the client's tools."""

_SIDE_TASKS = ("title generator", "context summarization")


def calls(*wanted: tuple[str, Json]) -> str:
    """A directive: the model calls these tools of the client's, all in one message."""
    return "::tools " + " | ".join(f"{PREFIX}{name} {json.dumps(arguments)}" for name, arguments in wanted)


class Asked:
    """The model's log from the moment on that this was made."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._mark = model.mark()

    @property
    def log(self) -> list[Json]:
        return self._model.log(after=self._mark)

    @property
    def turns(self) -> list[Json]:
        """What was asked in conversations."""
        return [entry for entry in self.log if not is_side_task(entry)]

    @property
    def side_tasks(self) -> list[Json]:
        """A client's titles and summaries."""
        return [entry for entry in self.log if is_side_task(entry)]

    @property
    def last(self) -> list[tuple[str, str]]:
        """The messages of the last turn's last request: who said what."""
        return told(self.turns[-1])

    def with_prompt(self, prompt: str) -> list[Json]:
        """The requests whose last prompt was this."""
        return [entry for entry in self.turns if entry["prompts"][-1:] == [prompt]]


def is_side_task(entry: Json) -> bool:
    return any(words in entry["system"] for words in _SIDE_TASKS)


def told(entry: Json) -> list[tuple[str, str]]:
    """The texts of a request to the model, without the CLI's own and messages that hold none (as results of tools)."""
    return [(m["role"], m["text"]) for m in entry["messages"] if m["text"] and m["role"] != "system"]


def dialogue(*texts: str) -> list[tuple[str, str]]:
    """User and assistant in turns."""
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def client_tools(entry: Json) -> set[str]:
    """The client's tools that the model had, by the client's own names."""
    return {name.removeprefix(PREFIX) for name in entry["tools"] if name.startswith(PREFIX)}


def own_tools(entry: Json) -> Sequence[str]:
    """Claude Code's own tools that the model had."""
    return [name for name in entry["tools"] if not name.startswith(PREFIX)]
