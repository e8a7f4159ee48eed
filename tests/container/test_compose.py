"""compose.yaml, read by the parser that `docker compose` itself uses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from claude_crds.settings import table
from claude_router.settings import RouterSettings

ROOT = Path(__file__).resolve().parents[2]
PARSER = Path(__file__).parent / "compose"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    command = ["go", "tool", "cmd", str(ROOT / "compose.yaml")]
    parsed = subprocess.run(command, cwd=PARSER, capture_output=True, text=True, timeout=240)
    assert parsed.returncode == 0, parsed.stderr
    services: dict[str, dict[str, Any]] = yaml.safe_load(parsed.stdout)["services"]
    assert list(services) == ["claude-code-api"]
    return services["claude-code-api"]


def test_every_variable_that_it_passes_on_is_a_setting(service: dict[str, Any]) -> None:
    known = {row[0] for row in table(RouterSettings)}
    ours = {name for name in service["environment"] if not name.startswith("ANTHROPIC_")}
    assert ours <= known
    assert {"POOL_SIZE", "API_KEYS", "PERMISSION_MODE"} <= ours


def test_its_defaults_are_the_settings_defaults(service: dict[str, Any]) -> None:
    defaults = {name: default for name, default, *_ in table(RouterSettings)}
    given = service["environment"]
    # A container's log is read by machines; an empty value keeps the program's own default.
    differing = {n for n, v in given.items() if n in defaults and v and v != defaults[n]}
    assert differing == {"LOG_FORMAT"}


def test_memory_is_on_a_volume_and_the_port_on_loopback_only(service: dict[str, Any]) -> None:
    assert [(v["type"], v["target"]) for v in service["volumes"]] == [("volume", "/data")]
    assert [(p["host_ip"], p["target"]) for p in service["ports"]] == [("127.0.0.1", 3000)]


def test_it_is_confined_and_watched(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][:4] == ["CMD", "python3", "-m", "claude_router"]
    assert service["build"]["dockerfile"] == "Dockerfile"
