"""How a pool's configuration of Claude Code gets into its workers' pods."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from claude_operator import build, claude
from claude_operator.settings import OperatorSettings
from claude_worker import seed
from operator_sim.made import pool

SETTINGS = OperatorSettings(worker_image="img:1", worker_key_file="key")
WHOLE = {
    "mcpServers": {"tracker": {"type": "http", "url": "https://mcp.example.com"}},
    "memory": "Answer in English.",
    "settings": {"env": {"A": "b"}},
    "commands": {"review": "Review $ARGUMENTS"},
    "agents": {"tester": "Test."},
}


def manifest(**spec: Any) -> Any:
    made = pool(**spec)
    return build.pod(build.template(made, SETTINGS), made, "p", "c", "token", None)


def environment(body: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value") for e in body["spec"]["containers"][0]["env"]}


def sources(body: Any) -> list[Any]:
    volumes = [v for v in body["spec"]["volumes"] if "projected" in v]
    return volumes[0]["projected"]["sources"] if volumes else []


def shown(body: Any) -> dict[str, str]:
    """The files that the kubelet shows, from the pod's own annotations."""
    files = {}
    for item in sources(body)[-1]["downwardAPI"]["items"]:
        match = re.fullmatch(r"metadata\.annotations\['(.+)'\]", item["fieldRef"]["fieldPath"])
        assert match
        # A key of an annotation, as the API server wants it.
        assert re.fullmatch(r"claude-code-api\.io/[A-Za-z0-9][A-Za-z0-9._-]{0,61}[A-Za-z0-9]", match[1])
        files[item["path"]] = body["metadata"]["annotations"][match[1]]
    return files


def test_a_pool_without_any_has_no_folder_for_it() -> None:
    body = manifest()
    assert sources(body) == []
    assert "CLAUDE_CONFIG_SEED" not in environment(body)
    assert len(body["spec"]["containers"][0]["volumeMounts"]) == 3


def test_the_pools_texts_are_files_in_the_pod(tmp_path: Path) -> None:
    body = manifest(claude=WHOLE)
    files = shown(body)
    assert json.loads(files["mcp.json"]) == {"mcpServers": WHOLE["mcpServers"]}
    (mount,) = [m for m in body["spec"]["containers"][0]["volumeMounts"] if m["mountPath"] == claude.PATH]
    assert mount["readOnly"] is True
    assert mount["name"] in [v["name"] for v in body["spec"]["volumes"]]
    assert environment(body)["CLAUDE_CONFIG_SEED"] == claude.PATH
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    # All but mcp.json, which is not copied.
    assert seed.read(tmp_path) == {
        "CLAUDE.md": b"Answer in English.",
        "settings.json": b'{"env": {"A": "b"}}',
        "commands/review.md": b"Review $ARGUMENTS",
        "agents/tester.md": b"Test.",
    }


def test_a_config_map_comes_below_them() -> None:
    body = manifest(claude={"memory": "x", "configMapRef": {"name": "more"}})
    assert [next(iter(source)) for source in sources(body)] == ["configMap", "downwardAPI"]
    alone = manifest(claude={"configMapRef": {"name": "more"}})
    assert sources(alone) == [{"configMap": {"name": "more"}}]
    assert environment(alone)["CLAUDE_CONFIG_SEED"] == claude.PATH
    assert not [a for a in alone["metadata"]["annotations"] if "CLAUDE.md" in a]


def test_annotations_of_the_template_stay() -> None:
    body = manifest(claude={"memory": "x"}, podTemplate={"metadata": {"annotations": {"note": "y"}}})
    assert body["metadata"]["annotations"] == {"note": "y", "claude-code-api.io/CLAUDE.md": "x"}


@pytest.mark.parametrize("name", ["a", "x" * 40])
def test_names_of_commands_make_keys_of_annotations(name: str) -> None:
    assert shown(manifest(claude={"commands": {name: "text"}})) == {f"commands/{name}.md": "text"}


def test_the_other_settings_reach_the_worker() -> None:
    found = environment(manifest())
    assert (found["TOOLS"], found["PARK_TIMEOUT_MS"]) == ("own", "900000")
    assert not {"SLASH_COMMANDS", "ALLOW_REMOTE_IMAGES"} & set(found)
    spec = {"tools": "both", "parkTimeout": "90s", "remoteImages": True, "claude": {"slashCommands": True}}
    found = environment(manifest(**spec))
    assert (found["TOOLS"], found["PARK_TIMEOUT_MS"]) == ("both", "90000")
    assert (found["SLASH_COMMANDS"], found["ALLOW_REMOTE_IMAGES"]) == ("true", "true")
