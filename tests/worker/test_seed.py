"""The pool's configuration of Claude Code in the CLI's own folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from claude_crds.settings import SettingsError
from claude_worker.seed import KEEP_DAYS, plant, read


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    folder = tmp_path / "seed"
    folder.mkdir()
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "claude"
    folder.mkdir()
    return folder


def settings(config: Path) -> object:
    return json.loads((config / "settings.json").read_text())


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_a_seed_only_the_transcripts_are_kept(config: Path) -> None:
    plant(read(None), config)
    assert settings(config) == {"cleanupPeriodDays": KEEP_DAYS}
    assert [p.name for p in config.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("chosen", [{"cleanupPeriodDays": 7}, {"cleanupPeriodDays": 7, "env": {"A": "b"}}])
def test_what_somebody_has_chosen_stays(config: Path, chosen: dict[str, object]) -> None:
    (config / "settings.json").write_text(json.dumps(chosen))
    plant({}, config)
    assert settings(config) == chosen


def test_the_other_settings_stay_too(config: Path) -> None:
    (config / "settings.json").write_text('{"env": {"A": "b"}}')
    plant({}, config)
    assert settings(config) == {"env": {"A": "b"}, "cleanupPeriodDays": KEEP_DAYS}


def test_all_that_a_folder_may_hold(seed: Path, config: Path) -> None:
    write(seed, CLAUDE_md="memory", settings_json='{"env": {"A": "b"}}', commands__review_md="r", agents__a__b_md="a")
    write(seed, mcp_json='{"mcpServers": {}}', other_md="x", skills__s__SKILL_md="x")
    plant(read(seed), config)
    assert (config / "CLAUDE.md").read_text() == "memory"
    assert (config / "commands" / "review.md").read_text() == "r"
    assert (config / "agents" / "a" / "b.md").read_text() == "a"
    assert settings(config) == {"env": {"A": "b"}, "cleanupPeriodDays": KEEP_DAYS}
    assert {p.name for p in config.iterdir()} == {"CLAUDE.md", "commands", "agents", "settings.json", "seeded.json"}


def test_a_config_map_as_the_kubelet_shows_it(seed: Path, config: Path) -> None:
    data = seed / "..2026_11_24"
    data.mkdir()
    for name in ("CLAUDE.md", "commands.review.md", "agents.tester.md", "commands.md", "commands.sh"):
        (data / name).write_text(name)
        (seed / name).symlink_to(Path("..data") / name)
    (seed / "..data").symlink_to(data.name)
    plant(read(seed), config)
    found = {str(p.relative_to(config)) for p in config.rglob("*") if p.is_file()}
    assert found == {"CLAUDE.md", "commands/review.md", "agents/tester.md", "settings.json", "seeded.json"}
    assert not (config / "CLAUDE.md").is_symlink()


def test_a_changed_seed_is_followed_and_other_files_are_left_alone(seed: Path, config: Path) -> None:
    write(seed, CLAUDE_md="one", commands__gone_md="x", commands__stays_md="x", settings_json='{"model": "opus"}')
    plant(read(seed), config)
    write(config, commands__own_md="own", projects__p__t_jsonl="{}")
    write(seed, CLAUDE_md="two")
    (seed / "commands" / "gone.md").unlink()
    (seed / "settings.json").unlink()
    plant(read(seed), config)
    assert (config / "CLAUDE.md").read_text() == "two"
    assert {p.name for p in (config / "commands").iterdir()} == {"own.md", "stays.md"}
    assert settings(config) == {"cleanupPeriodDays": KEEP_DAYS}
    assert (config / "projects" / "p" / "t.jsonl").exists()


def test_what_is_right_is_not_written_again(seed: Path, config: Path) -> None:
    write(seed, CLAUDE_md="one", commands__a_md="x")
    plant(read(seed), config)
    before = {p: p.stat().st_ino for p in config.rglob("*")}
    plant(read(seed), config)
    assert {p: p.stat().st_ino for p in config.rglob("*")} == before


def test_a_conversations_own_change_is_undone(seed: Path, config: Path, tmp_path: Path) -> None:
    write(seed, CLAUDE_md="the pool's")
    plant(read(seed), config)
    (tmp_path / "elsewhere").write_text("the pool's")
    (config / "CLAUDE.md").unlink()
    (config / "CLAUDE.md").symlink_to(tmp_path / "elsewhere")
    plant(read(seed), config)
    assert not (config / "CLAUDE.md").is_symlink()


@pytest.mark.parametrize("listed", ["no json", "{}", '["../outside", "OUTSIDE", "commands/../../outside", 3]'])
def test_a_spoiled_list_removes_nothing_outside(config: Path, listed: str) -> None:
    outside = config.parent / "outside"
    outside.write_text("x")
    (config / "commands").mkdir()
    (config / "seeded.json").write_text(listed.replace("OUTSIDE", str(outside)))
    plant({}, config)
    assert outside.exists()


def test_what_cannot_be_written_is_logged_and_the_rest_is(
    seed: Path, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(seed, CLAUDE_md="memory", commands__a_md="x")
    (config / "commands").write_text("a file where a folder is to be")
    (config / "settings.json").write_text("no json")
    with caplog.at_level(logging.ERROR):
        plant(read(seed), config)
    assert (config / "CLAUDE.md").read_text() == "memory"
    assert "commands/a.md could not be set up" in caplog.text
    assert "is no JSON object" in caplog.text
    assert (config / "settings.json").read_text() == "no json"


@pytest.mark.parametrize(
    ("name", "text"), [("settings.json", "{,}"), ("settings.json", "[]"), ("mcp.json", "x"), ("mcp.json", "1")]
)
def test_a_seed_that_the_cli_could_not_read_is_refused_by_name(seed: Path, name: str, text: str) -> None:
    (seed / name).write_text(text)
    with pytest.raises(SettingsError, match=rf"CLAUDE_CONFIG_SEED='{seed}': {name} must hold a JSON object"):
        read(seed)


def test_a_seed_that_is_not_there_is_refused(seed: Path) -> None:
    with pytest.raises(SettingsError, match="must be a folder"):
        read(seed / "nowhere")
    (seed / "commands").mkdir()
    (seed / "commands" / "a.md").write_bytes(b"\xff")
    assert read(seed) == {"commands/a.md": b"\xff"}
