"""What a worker may see of the server's environment."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest

from claude_crds.settings import SettingsError, load
from claude_router.local import banner
from claude_router.local.environment import CREDENTIALS, worker_environment
from claude_router.local.serve import plan
from claude_router.settings import RouterSettings
from claude_worker.settings import load_settings

SETTINGS = {
    "API_KEYS": "a-secret-key-of-clients",
    "PERMISSION_MODE": "plan",
    "MODELS": "fast=haiku,slow=opus",
    "MODEL": "sonnet",
    "TOOL_ACTIVITY": "off",
    "SYSTEM_PROMPT_MODE": "ignore",
    "TURN_TIMEOUT_MS": "1500",
    "KEEPALIVE_MS": "250",
    "MAX_QUEUE": "3",
    "MAX_BODY_BYTES": "2048",
    "LOG_FORMAT": "json",
    "TOOLS": "client",
    "DETACH_MS": "100",
    "PARK_TIMEOUT_MS": "200",
    "REPLAY_MS": "300",
    "ALLOW_REMOTE_IMAGES": "true",
    "SLASH_COMMANDS": "true",
    "CLAUDE_CONFIG_SEED": "/etc/claude",
}


def test_secrets_of_the_server_stay() -> None:
    environ = SETTINGS | {"DATABASE_PASSWORD": "hunter2", "CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDECODE": "1"}
    env = worker_environment(load(RouterSettings, environ), environ)
    assert "a-secret-key-of-clients" not in json.dumps(env)
    assert not {"API_KEYS", "DATABASE_PASSWORD", "CLAUDE_CODE_ENTRYPOINT", "CLAUDECODE", "SESSIONS_DIR"} & set(env)


def test_the_models_variables_pass() -> None:
    passed = dict.fromkeys(CREDENTIALS, "x") | {
        "ANTHROPIC_BASE_URL": "http://gateway", "AWS_REGION": "r", "GOOGLE_APPLICATION_CREDENTIALS": "/f",
        "https_proxy": "http://proxy", "HTTPS_PROXY": "http://proxy", "PATH": "/bin", "HOME": "/home/me",
        "NODE_EXTRA_CA_CERTS": "/ca", "IS_SANDBOX": "1", "MODEL_RETRIES": "2",
    }  # fmt: skip
    env = worker_environment(load(RouterSettings, {}), passed)
    assert passed.items() <= env.items()


def test_the_worker_reads_the_same_settings() -> None:
    settings = load(RouterSettings, SETTINGS)
    worker = load_settings(worker_environment(settings, SETTINGS))
    shared = {f.name for f in fields(worker)} & {f.name for f in fields(settings)} - {"host", "port", "workspace_dir"}
    assert len(shared) == 17
    assert {n: getattr(worker, n) for n in shared} == {n: getattr(settings, n) for n in shared}
    assert (worker.host, worker.port, worker.token_file, worker.watch_stdin) == ("127.0.0.1", 0, "-", True)


def test_the_variables_that_mcp_servers_name_pass_and_no_secret_of_the_server(tmp_path: Path) -> None:
    servers = {
        "a": {"url": "${HOST_OF_A}/x", "headers": {"A": "Bearer ${TOKEN_OF_A:-none}", "B": "${API_KEYS} ${UNSET}"}}
    }
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    environ = {
        "CLAUDE_CONFIG_SEED": str(tmp_path),
        "HOST_OF_A": "h",
        "TOKEN_OF_A": "t",
        "OTHER": "o",
        "API_KEYS": "12345678",
    }
    env = worker_environment(load(RouterSettings, environ), environ)
    assert (env["HOST_OF_A"], env["TOKEN_OF_A"], env["CLAUDE_CONFIG_SEED"]) == ("h", "t", str(tmp_path))
    assert not {"OTHER", "API_KEYS", "UNSET"} & set(env)


def test_a_server_cannot_name_a_setting_away(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text("${PERMISSION_MODE} ${TOKEN_FILE}")
    environ = {"CLAUDE_CONFIG_SEED": str(tmp_path), "TOKEN_FILE": "/f"}
    env = worker_environment(load(RouterSettings, environ), environ)
    assert (env["PERMISSION_MODE"], env["TOKEN_FILE"]) == ("bypassPermissions", "-")


def test_a_seed_below_the_home_folder() -> None:
    path = load(RouterSettings, {"CLAUDE_CONFIG_SEED": "~/.claude"}).seed_path
    assert path == Path("~/.claude").expanduser()


class TestPermissions:
    """The CLI refuses root every permission, unless told that it is in a sandbox."""

    @pytest.fixture(autouse=True)
    def _root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    def test_the_default_falls_back_and_says_so(self) -> None:
        chosen = plan({})
        assert chosen.settings.permission_mode == "acceptEdits"
        assert "root" in chosen.permission_note

    @pytest.mark.parametrize("sandbox", ["", "yes", "true", "0"])  # the CLI takes "1" only
    def test_an_explicit_one_is_refused_with_both_ways_out(self, sandbox: str) -> None:
        with pytest.raises(SettingsError, match=r"PERMISSION_MODE='bypassPermissions'.*another user.*IS_SANDBOX=1"):
            plan({"PERMISSION_MODE": "bypassPermissions", "IS_SANDBOX": sandbox})

    def test_others_and_a_sandbox_are_left_alone(self) -> None:
        assert plan({"PERMISSION_MODE": "plan"}).settings.permission_mode == "plan"
        sandbox = {"IS_SANDBOX": "1"}
        assert plan(sandbox | {"PERMISSION_MODE": "bypassPermissions"}).settings.permission_mode == "bypassPermissions"
        assert (plan(sandbox).settings.permission_mode, plan(sandbox).permission_note) == ("bypassPermissions", "")

    def test_any_other_user_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert plan({}).settings.permission_mode == "bypassPermissions"


def test_one_workspace_for_all_needs_a_place() -> None:
    with pytest.raises(SettingsError, match=r"WORKSPACE_PER_CONVERSATION='false'.*WORKSPACE_DIR"):
        plan({"WORKSPACE_PER_CONVERSATION": "false"})


@pytest.mark.parametrize("variable", CREDENTIALS)
def test_any_credential_means_a_real_model(variable: str) -> None:
    assert plan({}).demo
    assert not plan({variable: "1"}).demo


def test_the_banner_shows_no_key_and_a_snippet_that_parses() -> None:
    settings = load(RouterSettings, SETTINGS)
    text = banner.banner(settings, banner.url_of("0.0.0.0", 3000), demo=True, permission_note="")
    assert "a-secret-key-of-clients" not in text
    assert "SCRIPTED DEMO MODEL" in text
    snippet = json.loads(text.split("opencode.json: ", 1)[1].splitlines()[0])
    provider = snippet["provider"]["claude-code"]
    assert provider["options"]["baseURL"] == "http://localhost:3000/v1"
    assert set(provider["models"]) == {"claude-code", "claude-code-tools", "claude-code-client", "fast", "slow"}


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://localhost:1"), ("::", "http://localhost:1"), ("fd00::1", "http://[fd00::1]:1")],
)
def test_the_address_to_type(host: str, url: str) -> None:
    assert banner.url_of(host, 1) == url
