"""compose.yaml, read by the parser that `docker compose` itself uses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from claude_crds.settings import table
from claude_router.local.environment import CREDENTIALS, passed_on
from claude_router.settings import RouterSettings
from container.needs import need

ROOT = Path(__file__).resolve().parents[2]
PARSER = Path(__file__).parent / "compose"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    need("go")
    command = ["go", "tool", "cmd", str(ROOT / "compose.yaml")]
    # Only what it is given here: a setting in the developer's shell is not the file's.
    env = {name: value for name, value in os.environ.items() if name != "LOG_FORMAT"}
    parsed = subprocess.run(command, cwd=PARSER, env=env, capture_output=True, text=True, timeout=240)
    assert parsed.returncode == 0, parsed.stderr
    services: dict[str, dict[str, Any]] = yaml.safe_load(parsed.stdout)["services"]
    assert list(services) == ["claude-code-api"]
    return services["claude-code-api"]


def test_it_passes_on_every_setting_and_credential_and_gives_no_default_of_its_own(service: dict[str, Any]) -> None:
    given = service["environment"]
    # The image says these; in a container they are the volume and the published port.
    settings = {row[0] for row in table(RouterSettings)} - {"HOST", "PORT", "SESSIONS_DIR", "WORKSPACE_DIR"}
    assert settings | set(CREDENTIALS) <= set(given)
    assert passed_on(dict.fromkeys(given.keys() - settings, "")).keys() == given.keys() - settings
    # A container's log is read by machines.
    assert {name: value for name, value in given.items() if value is not None} == {"LOG_FORMAT": "json"}


def test_memory_is_on_a_volume_and_the_port_on_loopback_only(service: dict[str, Any]) -> None:
    assert [(v["type"], v["target"]) for v in service["volumes"]] == [("volume", "/data")]
    assert [(p["host_ip"], p["target"]) for p in service["ports"]] == [("127.0.0.1", 3000)]


def test_it_is_confined_and_watched(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][-2:] == ["claude_router", "--check-health"]
    assert service["build"]["dockerfile"] == "Dockerfile"
