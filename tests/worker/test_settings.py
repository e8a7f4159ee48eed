"""The worker's settings: defaults, and what a model name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_crds.settings import SettingsError, table
from claude_router.settings import RouterSettings
from claude_worker.settings import Model, WorkerSettings, load_settings


def test_defaults_are_those_of_the_whole_server() -> None:
    worker, server = WorkerSettings(), RouterSettings()
    assert (worker.detach, worker.park_timeout, worker.replay) == (3.0, 900.0, 600.0)
    for name in ("tools", "detach", "park_timeout", "replay", "allow_remote_images", "slash_commands", "config_seed"):
        assert getattr(worker, name) == getattr(server, name), name


def test_read_from_the_environment() -> None:
    settings = load_settings({
        "DETACH_MS": "0", "PARK_TIMEOUT_MS": "1500", "REPLAY_MS": "250", "ALLOW_REMOTE_IMAGES": "true",
        "SLASH_COMMANDS": "yes", "TOOLS": "client", "CLAUDE_CONFIG_SEED": "/etc/claude",
    })  # fmt: skip
    assert (settings.detach, settings.park_timeout, settings.replay) == (0.0, 1.5, 0.25)
    assert (settings.allow_remote_images, settings.slash_commands) == (True, True)
    assert settings.seed == Path("/etc/claude")
    assert WorkerSettings().seed is None


@pytest.mark.parametrize(
    ("variable", "value"), [("TOOLS", "none"), ("PARK_TIMEOUT_MS", "604800001"), ("SLASH_COMMANDS", "perhaps")]
)
def test_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}='{value}': must be"):
        load_settings({variable: value})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("claude-code", Model("sonnet", "both")),
        ("claude-code:some-id", Model("sonnet", "both")),
        ("claude-code-client:a-tools", Model("sonnet", "client")),
        ("claude-code-haiku-tools", Model("haiku", "both")),
        ("gpt", None),
    ],
)
def test_a_conversation_after_the_name_is_no_part_of_it(name: str, expected: Model | None) -> None:
    settings = load_settings({"MODEL": "sonnet", "TOOLS": "both"})
    assert settings.resolve(name) == expected


def test_every_setting_is_explained() -> None:
    assert all(doc for _, _, _, doc in table(WorkerSettings))
