"""A pool's configuration of Claude Code, as files in its worker pods. Pure.

The texts of the pool itself are annotations of each pod, which a volume shows as files: so a pod has those that it was
made with, a change makes it stale like any other, and the operator needs no right to write a ConfigMap. A ConfigMap
of the pool's owner is shown in the same folder, below them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from claude_crds.resources import GROUP
from claude_crds.views import ClaudeConfiguration

Json = dict[str, Any]

PATH = "/etc/claude-code-api/claude"
_VOLUME = "claude-configuration"


def files(claude: ClaudeConfiguration) -> dict[str, str]:
    """What the pool itself gives, by path in the folder."""
    texts = {
        "mcp.json": json.dumps({"mcpServers": claude.mcp_servers}, sort_keys=True) if claude.mcp_servers else "",
        "CLAUDE.md": claude.memory,
        "settings.json": json.dumps(claude.settings, sort_keys=True) if claude.settings else "",
        **{f"commands/{name}.md": text for name, text in sorted(claude.commands.items())},
        **{f"agents/{name}.md": text for name, text in sorted(claude.agents.items())},
    }
    return {path: text for path, text in texts.items() if text}


def _annotation(path: str) -> str:
    return f"{GROUP}/{path.replace('/', '.')}"


def metadata(files: Mapping[str, str]) -> Json:
    """The pod's metadata that holds the files."""
    return {"annotations": {_annotation(path): text for path, text in files.items()}} if files else {}


def volumes(claude: ClaudeConfiguration, files: Mapping[str, str]) -> list[Json]:
    """The folder as a volume; none when there is nothing in it."""
    sources: list[Json] = []
    if ref := claude.config_map_ref:
        sources.append({"configMap": {"name": ref.name}})
    if files:
        # After the ConfigMap: where both have a path, the later source is what the pod sees.
        fields = [{"path": p, "fieldRef": {"fieldPath": f"metadata.annotations['{_annotation(p)}']"}} for p in files]
        sources.append({"downwardAPI": {"items": fields}})
    return [{"name": _VOLUME, "projected": {"sources": sources}}] if sources else []


def mounts(claude: ClaudeConfiguration) -> list[Json]:
    """Where the worker finds it."""
    there = claude.config_map_ref or files(claude)
    return [{"name": _VOLUME, "mountPath": PATH, "readOnly": True}] if there else []
