"""The CLI's arguments and environment, as a conversation needs them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from claude_worker.cli import aside_arguments, credential_settings, environment, session_arguments
from claude_worker.settings import WorkerSettings, load_settings

OLD, NEW, AT = "5e9c5a5e-0000-4000-8000-000000000001", "5e9c5a5e-0000-4000-8000-000000000002", "a-message"


def env(settings: WorkerSettings | None = None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    return environment(settings or WorkerSettings(), environ or {}, Path("/v/claude"))


def of_session(arguments: list[str]) -> list[str]:
    return [a for a in arguments if a.startswith(("--resume", "--session-id", "--fork"))]


def test_begun_continued_and_forked() -> None:
    settings = WorkerSettings()
    assert of_session(session_arguments(settings, NEW, resume=False)) == [f"--session-id={NEW}"]
    assert of_session(session_arguments(settings, OLD, resume=True)) == [f"--resume={OLD}"]
    at = f"--resume-session-at={AT}"
    assert of_session(session_arguments(settings, OLD, resume=True, resume_at=AT)) == [f"--resume={OLD}", at]
    forked = [f"--resume={OLD}", at, "--fork-session", f"--session-id={NEW}"]
    assert of_session(session_arguments(settings, NEW, resume=True, resume_at=AT, fork_of=OLD)) == forked
    assert of_session(session_arguments(settings, NEW, resume=False, fork_of=OLD)) == [forked[0], *forked[2:]]


def test_the_pools_servers_come_with_the_clis_own_tools(tmp_path: Path) -> None:
    settings = load_settings({"CLAUDE_CONFIG_SEED": str(tmp_path)})
    assert not [a for a in session_arguments(settings, NEW, resume=False) if "mcp-config" in a]
    (tmp_path / "mcp.json").write_text("{}")
    with_own = session_arguments(settings, NEW, resume=False)
    assert f"--mcp-config={tmp_path}/mcp.json" in with_own
    assert "--tools" not in with_own
    without = session_arguments(settings, NEW, resume=False, own_tools=False)
    assert without[without.index("--tools") + 1] == ""
    assert [a for a in without if "mcp-config" in a] == ["--strict-mcp-config"]
    assert not [a for a in aside_arguments(settings, "") if "--mcp-config" in a]


@pytest.mark.parametrize("own_tools", [True, False])
def test_the_clients_tools_need_no_permission(own_tools: bool) -> None:
    settings = load_settings({"PERMISSION_MODE": "acceptEdits"})
    assert "--allowedTools=mcp__client" in session_arguments(settings, NEW, resume=False, own_tools=own_tools)


@pytest.mark.parametrize(
    ("model", "setting", "chosen"), [("", "", None), ("", "opus", "opus"), ("haiku", "opus", "haiku")]
)
def test_the_model(model: str, setting: str, chosen: str | None) -> None:
    arguments = session_arguments(load_settings({"MODEL": setting}), NEW, resume=False, model=model)
    assert (arguments[arguments.index("--model") + 1] if "--model" in arguments else None) == chosen


def test_tools_are_all_in_the_request_unless_told_otherwise() -> None:
    assert env()["ENABLE_TOOL_SEARCH"] == "false"
    assert env(environ={"ENABLE_TOOL_SEARCH": "auto"})["ENABLE_TOOL_SEARCH"] == "auto"


@pytest.mark.parametrize(
    ("given", "park_ms", "expected"),
    [
        ("", "900000", 100_000_000),
        ("5000", "900000", 960_000),
        ("200000000", "900000", 200_000_000),
        ("", "604800000", 604_860_000),
        ("soon", "0", 100_000_000),
    ],
)
def test_a_call_may_take_longer_than_a_turn_is_parked(given: str, park_ms: str, expected: int) -> None:
    made = env(load_settings({"PARK_TIMEOUT_MS": park_ms}), {"MCP_TOOL_TIMEOUT": given})
    assert made["MCP_TOOL_TIMEOUT"] == str(expected)
    assert made["CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS"] == "0"


def test_the_workers_own_settings_stay_with_it() -> None:
    environ = {
        "TOKEN_SHA256": "0" * 64,
        "TOOLS": "own",
        "CLAUDE_CONFIG_SEED": "/x",
        "API_KEYS": "k",
        "TRACKER_TOKEN": "t",
    }
    made = env(environ=environ)
    assert made["TRACKER_TOKEN"] == "t"
    assert set(environ) & set(made) == {"TRACKER_TOKEN"}


def settings_given(arguments: list[str]) -> list[dict[str, str]]:
    return [json.loads(a.removeprefix("--settings=")) for a in arguments if a.startswith("--settings")]


@pytest.mark.parametrize("path", ["/run/token", "/a folder/it's"])
def test_the_model_s_credential_is_read_from_its_file(path: str) -> None:
    settings = load_settings({"MODEL_TOKEN_FILE": path})
    for arguments in (
        session_arguments(settings, NEW, resume=False),
        session_arguments(settings, NEW, resume=True, own_tools=False),
        aside_arguments(settings, ""),
    ):
        [given] = settings_given(arguments)
        assert given == credential_settings(settings)
        assert list(given) == ["apiKeyHelper"]
        assert shlex.split(given["apiKeyHelper"]) == ["cat", path]


def test_nothing_but_the_file_s_credential_is_used_then() -> None:
    keys = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_AUTH_TOKEN": "t", "CLAUDE_CODE_OAUTH_TOKEN": "o"}
    environ = {**keys, "MODEL_TOKEN_FILE": "/t", "ANTHROPIC_BASE_URL": "u"}
    made = env(load_settings({"MODEL_TOKEN_FILE": "/t"}), environ)
    assert set(environ) & set(made) == {"ANTHROPIC_BASE_URL"}
    assert made["CLAUDE_CODE_API_KEY_HELPER_TTL_MS"] == "60000"
    chosen = env(load_settings({"MODEL_TOKEN_FILE": "/t"}), {"CLAUDE_CODE_API_KEY_HELPER_TTL_MS": "5"})
    assert chosen["CLAUDE_CODE_API_KEY_HELPER_TTL_MS"] == "5"


def test_without_such_a_file_all_is_as_ever() -> None:
    assert settings_given(session_arguments(WorkerSettings(), NEW, resume=False)) == []
    assert settings_given(aside_arguments(WorkerSettings(), "haiku")) == []
    made = env(environ={"ANTHROPIC_API_KEY": "k"})
    assert made["ANTHROPIC_API_KEY"] == "k"
    assert "CLAUDE_CODE_API_KEY_HELPER_TTL_MS" not in made
