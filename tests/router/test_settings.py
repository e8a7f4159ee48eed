"""The router's settings: names, defaults, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_crds.settings import SettingsError, load, table
from claude_router.settings import RouterSettings

SECRET = "short"


def test_defaults_are_those_that_the_readme_promises() -> None:
    shown = {env: default for env, default, _, _ in table(RouterSettings)}
    assert shown == {
        "HOST": "127.0.0.1", "PORT": "3000", "API_KEYS": "", "API_KEYS_FILE": "", "TEAMS_FILE": "",
        "AUDIT_LOG": "", "TEAM_METRICS": "false", "POOL_SIZE": "5", "WARM_WORKERS": "1",
        "IDLE_TIMEOUT_MS": "300000", "QUEUE_TIMEOUT_MS": "30000", "MAX_QUEUE": "16", "TURN_TIMEOUT_MS": "3600000",
        "KEEPALIVE_MS": "5000", "MAX_BODY_BYTES": "33554432", "SHUTDOWN_GRACE_MS": "30000",
        "SESSIONS_DIR": "~/.claude-code-api/sessions", "WORKSPACE_DIR": "", "WORKSPACE_PER_CONVERSATION": "true",
        "WORKSPACE_GIT": "", "WORKSPACE_GIT_HOSTS": "",
        "PERMISSION_MODE": "bypassPermissions",
        "MODELS": "claude-code-opus=opus,claude-code-sonnet=sonnet,claude-code-haiku=haiku", "MODEL": "",
        "TOOL_ACTIVITY": "reasoning", "SYSTEM_PROMPT_MODE": "append", "TOOLS": "own", "DETACH_MS": "3000",
        "PARK_TIMEOUT_MS": "900000", "REPLAY_MS": "600000", "ALLOW_REMOTE_IMAGES": "false", "SLASH_COMMANDS": "false",
        "CLAUDE_CONFIG_SEED": "", "LOG_FORMAT": "text",
    }  # fmt: skip


def test_read_from_the_environment() -> None:
    settings = load(
        RouterSettings,
        {"KEEPALIVE_MS": "2500", "API_KEYS": "first-key, second-key", "MODELS": "big=claude-opus-4", "PORT": "0"},
    )
    assert (settings.keepalive, settings.port) == (2.5, 0)
    assert settings.api_keys == ("first-key", "second-key")
    assert settings.model_ids == ("claude-code", "claude-code-tools", "claude-code-client", "big")
    assert [settings.offers(m) for m in ("claude-code-tools", "big-client", "big-x", "small")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("MODELS", "a:b=opus", "other than claude-code"),
        ("MODELS", "claude-code=opus", "other than claude-code"),
        ("MODELS", "claude-code-client=opus", "claude-code-client"),
        ("TOOLS", "mine", "own, both, client"),
        ("PARK_TIMEOUT_MS", "604800001", "to 604800000"),
        ("MODELS", "two words=opus", "letters, digits"),
        ("MODELS", "nothing=", "name=value"),
        ("POOL_SIZE", "0", "from 1"),
        ("PORT", "65536", "to 65535"),
        ("KEEPALIVE_MS", "5s", "milliseconds"),
        ("PERMISSION_MODE", "root", "bypassPermissions"),
        ("LOG_FORMAT", "xml", "text, json"),
        ("WARM_WORKERS", "6", "POOL_SIZE (5)"),
    ],
)
def test_refused_with_variable_value_and_what_is_allowed(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(RouterSettings, {variable: value})
    message = str(refused.value)
    assert message.startswith(f"{variable}=")
    assert value in message
    assert allowed in message


@pytest.mark.parametrize("keys", [SECRET, "with blank inside", "long-enough-but-ümlaut"])
def test_a_bad_key_is_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(RouterSettings, {"API_KEYS": keys})
    assert keys not in str(refused.value)
    assert "API_KEYS=(hidden)" in str(refused.value)


def test_keys_do_not_show_in_a_printed_settings_object() -> None:
    assert "the-secret-key" not in repr(RouterSettings(api_keys=("the-secret-key",)))


def test_folders_are_absolute_and_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert RouterSettings().sessions_path == Path("/home/somebody/.claude-code-api/sessions")
    assert RouterSettings().workspace_path is None
    assert RouterSettings(workspace_dir="~/work").workspace_path == Path("/home/somebody/work")
    assert RouterSettings().api_keys_path is RouterSettings().teams_path is None
    named = RouterSettings(api_keys_file="~/keys.json", teams_file="~/teams.yaml")
    assert (named.api_keys_path, named.teams_path) == (
        Path("/home/somebody/keys.json"),
        Path("/home/somebody/teams.yaml"),
    )
