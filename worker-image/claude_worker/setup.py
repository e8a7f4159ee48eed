"""How a conversation's CLI process is set up beyond its memory: whose tools, which answer format, which effort.

Some of it is fixed when the process is spawned, the rest when it is initialized; a request that needs it otherwise gets
a new process on the same memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from claude_crds.model_names import Tools
from claude_worker.bridge import ClientTool


class Setup(msgspec.Struct, frozen=True):
    """`client`: the client's tools, sorted by name. `schema`: the JSON Schema of the answers, as JSON text, or "".

    `effort`: the CLI's level of effort, or "" for its own default.
    """

    tools: Tools = "own"
    client: tuple[ClientTool, ...] = ()
    schema: str = ""
    effort: str = ""

    @property
    def own_tools(self) -> bool:
        """Whether the CLI has its own tools."""
        return self.tools != "client"

    def spawns_like(self, other: Setup) -> bool:
        """Whether a process that was spawned for `other`, and is not initialized yet, serves for this."""
        return self.own_tools == other.own_tools and self.effort == other.effort

    def initialize_fields(self, system_prompt: str, mode: str) -> dict[str, Any]:
        """The fields of the `initialize` request. `mode`: the setting SYSTEM_PROMPT_MODE."""
        fields: dict[str, Any] = {"sdkMcpServers": ["client"]} if self.client else {}
        if system_prompt:
            fields["systemPrompt" if mode == "replace" else "appendSystemPrompt"] = system_prompt
        return fields | ({"jsonSchema": msgspec.json.decode(self.schema)} if self.schema else {})


def read(path: Path) -> Setup:
    """The setup on the volume; the plain one when there is none, or when it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Setup)
    except (FileNotFoundError, msgspec.DecodeError):
        return Setup()


def write(path: Path, setup: Setup) -> None:
    """Replace the setup on the volume. Blocking."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(setup))
    temporary.replace(path)
