"""A client that sends the whole history each time, as OpenAI clients do, and what the model was told for it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from local.harness import Json, Model, events, streamed_text

PATH = "/v1/chat/completions"
PREFIX = "mcp__client__"
Told = list[tuple[str, ...]]
"""`("user", TEXT)`, `("assistant", TEXT)`, `("call", ID)`, `("result", ID, TEXT)`, in order."""


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


def result(call_id: str, text: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def tools(*names: str) -> list[Json]:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    return [{"type": "function", "function": {"name": n, "parameters": schema}} for n in names]


def calls(*named: str) -> str:
    """A directive: these tools of the client's, all in one message (`NAME` or `NAME JSON`)."""
    return "::tools " + " | ".join(PREFIX + name for name in named)


class Talker:
    """One client's view of one conversation. `fields` are in each of its requests, `headers` too."""

    def __init__(self, client: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> None:
        self.client = client
        self.headers = headers or {}
        self.fields = fields
        self.messages: list[Json] = []

    def branch(self, length: int) -> Talker:
        """Another client that has seen only the first messages."""
        other = Talker(self.client, self.headers, **self.fields)
        other.messages = copy.deepcopy(self.messages[:length])
        return other

    def post(self, *new: Json, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Send the history and `new`; nothing is kept of either."""
        body = {"messages": [*self.messages, *new], **self.fields, **fields}
        return self.client.post(PATH, json=body, headers=self.headers | (headers or {}))

    def send(self, *new: Json, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Send the history and `new`; the answer becomes part of it."""
        response = self.post(*new, headers=headers, **fields)
        assert response.status_code == 200, response.text
        self.messages += [*new, response.json()["choices"][0]["message"]]
        return response

    def say(self, text: str, headers: dict[str, str] | None = None, **fields: Any) -> str:
        """One turn; returns what `X-Claude-History` says of it."""
        return self.send(user(text), headers=headers, **fields).headers["x-claude-history"]

    @property
    def last(self) -> Json:
        return self.messages[-1]

    @property
    def calls(self) -> list[str]:
        """The ids of the calls in the last answer."""
        return [c["id"] for c in self.last["tool_calls"]]

    @contextmanager
    def reading(self, *new: Json, until: str, headers: dict[str, str] | None = None, **fields: Any) -> Iterator[Stream]:
        """A stream, open, of which the client has read as far as the first line that holds `until`."""
        body = {"messages": [*self.messages, *new], "stream": True, **self.fields, **fields}
        with self.client.stream("POST", PATH, json=body, headers=self.headers | (headers or {})) as response:
            stream = Stream(response)
            if until:
                stream.until(until)
            yield stream

    @property
    def asked(self) -> Told:
        """What the model is to have been told for the last answer."""
        return told_of(self.messages[:-1])


class Stream:
    """A stream of server-sent events, read as far as is wanted."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()  # kept: httpx closes the stream when its iterator goes
        self.read: list[str] = []

    def until(self, words: str) -> None:
        for line in self._lines:
            self.read.append(line)
            if words in line:
                return
        raise AssertionError(f"{words!r} is not in {self.read}")

    def rest(self) -> str:
        """All of it, from its start to its end."""
        self.read += self._lines
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(self.read)

    @property
    def said(self) -> str:
        return streamed_text(self.text)

    @property
    def error(self) -> Json:
        """The error object that ended it."""
        found: Json = events(self.text)[-1]["error"]
        return found


def told_of(messages: Sequence[Json]) -> Told:
    """What a client's messages tell."""
    found: Told = []
    for m in messages:
        content = m.get("content") or ""
        text = content if isinstance(content, str) else "\n".join(p.get("text", "") for p in content)
        if m["role"] == "tool":
            found.append(("result", m["tool_call_id"], text.strip()))
            continue
        if text.strip():
            found.append((m["role"], _squeezed(text)))
        found += [("call", c["id"]) for c in m.get("tool_calls") or ()]
    return found


def told(entry: Json) -> Told:
    """What the model was told by a request of its log, without what the CLI adds and its own tools' calls."""
    found: Told = []
    for m in entry["messages"]:
        for kind, what, *more in m["told"]:
            if kind == "text" and m["role"] == "assistant" and found and found[-1][0] == "assistant":
                # The client has the blocks of one answer as one text.
                found[-1] = ("assistant", f"{found[-1][1]} {_squeezed(what)}")
            elif kind == "text" and m["role"] in ("user", "assistant"):
                found.append((m["role"], _squeezed(what)))
            elif kind == "call" and more[0].startswith(PREFIX):
                found.append(("call", what))
            elif kind == "result" and ("call", what) in found:
                found.append(("result", what, more[0].strip()))
    return found


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def last_told(model: Model, after: int = 0) -> Told:
    """What the model was told by its last request."""
    return told(model.log(after)[-1])


def texts(found: Told, role: str = "user") -> list[str]:
    return [t[1] for t in found if t[0] == role]


def said(response: httpx.Response) -> str:
    """The text of a JSON completion."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def refused(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return response.status_code, response.json()["error"]["code"]
