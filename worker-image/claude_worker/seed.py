"""The pool's configuration of Claude Code, laid into the CLI's own folder before it starts.

The folder CLAUDE_CONFIG_SEED may hold CLAUDE.md, settings.json, and the folders commands and agents; mcp.json is not
copied, since `cli` names it to the CLI where it is. A ConfigMap has no folders: there `commands.review.md` is
`commands/review.md`, and `agents.tester.md` is `agents/tester.md`.

What comes from the seed is the pool's: a conversation's own changes to those files are undone at its worker's next
start, and what has left the seed goes. Other files are left alone.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from claude_crds.settings import SettingsError

log = logging.getLogger(__name__)

KEEP_DAYS = 36_500
"""Without `cleanupPeriodDays` the CLI deletes, as it starts, transcripts that are older than 30 days."""

_MEMORY = "CLAUDE.md"
_SETTINGS = "settings.json"
_MCP = "mcp.json"
_FOLDERS = ("commands", "agents")
_PLANTED = "seeded.json"
"""In the configuration folder: the paths that came from the seed."""


def read(seed: Path | None) -> dict[str, bytes]:
    """The files of the seed, by their paths in the CLI's folder. Raises SettingsError when they cannot be used."""
    if seed is None:
        return {}
    if not seed.is_dir():
        raise SettingsError(f"CLAUDE_CONFIG_SEED={str(seed)!r}: must be a folder")
    try:
        files = {path: source.read_bytes() for path, source in _sources(seed)}
    except OSError as error:
        raise SettingsError(f"CLAUDE_CONFIG_SEED={str(seed)!r}: cannot be read: {error}") from error
    for name, content in [(_SETTINGS, files.get(_SETTINGS)), (_MCP, _bytes(seed / _MCP))]:
        if content is not None and _json_object(content) is None:
            raise SettingsError(f"CLAUDE_CONFIG_SEED={str(seed)!r}: {name} must hold a JSON object")
    return files


def _sources(seed: Path) -> Iterator[tuple[str, Path]]:
    for source in sorted(seed.iterdir()):
        kind, _, rest = source.name.partition(".")
        if source.name in (_MEMORY, _SETTINGS) and source.is_file():
            yield source.name, source
        elif source.name in _FOLDERS and source.is_dir():
            yield from ((str(file.relative_to(seed)), file) for file in sorted(source.rglob("*")) if file.is_file())
        elif kind in _FOLDERS and rest.endswith(".md") and source.is_file():
            yield f"{kind}/{rest}", source


def plant(files: dict[str, bytes], config_dir: Path) -> None:
    """Make the CLI's folder hold `files`, and settings that keep its transcripts. What fails is logged, no more.

    A full volume, or what a conversation has made of its own folder, must not keep it from being answered.
    """
    before = _planted(config_dir)
    for path in before - files.keys():
        _try(config_dir, path, None)
    settings = _settings(files, config_dir)
    for path, content in {**files, **settings}.items():
        _try(config_dir, path, content)
    if before != files.keys():
        _try(config_dir, _PLANTED, json.dumps(sorted(files)).encode())


def _settings(files: dict[str, bytes], config_dir: Path) -> dict[str, bytes]:
    """The settings file, with `cleanupPeriodDays` if nobody has chosen it."""
    found = files.get(_SETTINGS) or _bytes(config_dir / _SETTINGS) or b"{}"
    settings = _json_object(found)
    if settings is None:
        log.error("%s is no JSON object; Claude Code deletes no transcript while it is so", config_dir / _SETTINGS)
        return {}
    if "cleanupPeriodDays" in settings:
        return {}
    return {_SETTINGS: json.dumps({**settings, "cleanupPeriodDays": KEEP_DAYS}, indent=2).encode()}


def _planted(config_dir: Path) -> set[str]:
    try:
        listed = json.loads(_bytes(config_dir / _PLANTED) or b"[]")
    except ValueError:
        return set()
    # A conversation can write there too: nothing outside the folder goes.
    paths = [path for path in listed if isinstance(path, str)] if isinstance(listed, list) else []
    return {path for path in paths if not path.startswith("/") and ".." not in path.split("/")}


def _try(config_dir: Path, path: str, content: bytes | None) -> None:
    try:
        _put(config_dir / path, content)
    except OSError as error:
        log.error("Claude Code's %s could not be set up: %s", path, error)


def _put(target: Path, content: bytes | None) -> None:
    """Write it whole, if it is another; None: remove it."""
    if content is None:
        target.unlink(missing_ok=True)
    elif target.is_symlink() or _bytes(target) != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=target.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
            Path(name).replace(target)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        loaded: Any = json.loads(content)
    except ValueError:
        return None
    return loaded if isinstance(loaded, dict) else None
