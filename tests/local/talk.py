"""A client that sends the whole history each time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from local.harness import Json, content, streamed_text

CHAT = "/v1/chat/completions"


def user(text: str) -> Json:
    return {"role": "user", "content": text}


@dataclass
class Talk:
    """`told` is its history; without a `name` it sends no id. `ids` are the conversations that its answers came from.

    `how` is what the server said it did with the history.
    """

    http: httpx.Client
    name: str = ""
    told: list[Json] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    how: str = ""

    def post(self, **fields: Any) -> httpx.Response:
        """The history as it is."""
        body = {"model": "claude-code", "messages": self.told, **fields}
        headers = {"X-Conversation-ID": self.name} if self.name else {}
        answer = self.http.post(CHAT, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        self.ids.append(answer.headers["x-conversation-id"])
        self.how = answer.headers.get("x-claude-history", "")
        return answer

    def say(self, text: str, **fields: Any) -> str:
        """A turn that is answered with text."""
        self.told.append(user(text))
        answer = self.post(**fields)
        said = streamed_text(answer.text) if fields.get("stream") else content(answer)
        self.told.append({"role": "assistant", "content": said})
        return said

    def call(self, text: str, **fields: Any) -> list[Json]:
        """A turn that is answered with calls of the client's tools."""
        self.told.append(user(text))
        message: Json = self.post(**fields).json()["choices"][0]["message"]
        self.told.append(message)
        calls: list[Json] = message["tool_calls"]
        return calls

    def give(self, results: dict[str, str], **fields: Any) -> str:
        """The results of calls, by their ids."""
        self.told += [{"role": "tool", "tool_call_id": call, "content": result} for call, result in results.items()]
        said = content(self.post(**fields))
        self.told.append({"role": "assistant", "content": said})
        return said

    def recall(self) -> list[str]:
        """What the model has been told."""
        found: list[str] = json.loads(self.say("::recall"))
        return found

    def prompts(self) -> list[str]:
        """What the user has said."""
        return [m["content"] for m in self.told if m["role"] == "user"]

    def until(self, count: int) -> Talk:
        """The same client, with its first so many messages."""
        return Talk(self.http, self.name, self.told[:count])
