"""Teams and their keys on one machine: two files, read anew within half a second of a change.

API_KEYS_FILE is what `claude-code-api keys --file` writes. TEAMS_FILE is a list of `{name, spec}`, the spec as in a
ClaudeTeam; JSON, or YAML where PyYAML is installed. Keys that cannot be read are in force no more; teams that cannot
stay as they were.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from claude_crds.apikeys import decode_file
from claude_crds.objects import Metadata
from claude_crds.teams import Period, TeamNameError, team_name
from claude_crds.views import Budget, ClaudeTeam, TeamSpec
from claude_router.access import TeamSide
from claude_router.poller import Poller
from claude_router.teams import Teams

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5

_Stamp = tuple[int, int, int]


class TeamsFileError(ValueError):
    """The file holds no list of teams; the message says what is wrong with it."""


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    spec: dict[str, Any] = {}


def read_teams(content: bytes) -> list[ClaudeTeam]:
    """The teams in a file. Raises TeamsFileError."""
    try:
        entries = msgspec.convert(_loaded(content), list[_Entry])
    except msgspec.MsgspecError as error:
        raise TeamsFileError(f"it must be a list of {{name, spec}}: {error}") from error
    teams = [_team(entry) for entry in entries]
    if len({team.name for team in teams}) < len(teams):
        raise TeamsFileError("two teams have the same name")
    return teams


def _loaded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            yaml: Any = importlib.import_module("yaml")
        except ImportError:
            raise TeamsFileError(f"it is no JSON ({error}), and YAML needs PyYAML to be installed") from error
        try:
            return yaml.safe_load(content)
        except (yaml.YAMLError, UnicodeDecodeError) as trouble:
            raise TeamsFileError(f"it is neither JSON nor YAML: {trouble}") from trouble


def _team(entry: _Entry) -> ClaudeTeam:
    """Stricter than a view: a limit under a misspelt name would be none."""
    try:
        name = team_name(entry.name)
        spec = msgspec.convert(entry.spec, TeamSpec)
    except (TeamNameError, msgspec.ValidationError) as error:
        raise TeamsFileError(f"team {entry.name!r}: {error}") from error
    _refuse_unknown(entry.name, entry.spec, TeamSpec)
    if isinstance(budget := entry.spec.get("budget"), dict):
        _refuse_unknown(entry.name, budget, Budget)
    counts = (spec.max_sessions, spec.max_live, spec.max_concurrent_turns, spec.requests_per_minute)
    if any(count is not None and count < 1 for count in counts):
        raise TeamsFileError(f"team {name!r}: a limit must be at least 1; leave it out for none")
    if spec.budget and (spec.budget.usd <= 0 or spec.budget.period not in tuple(Period)):
        raise TeamsFileError(f"team {name!r}: a budget is of more than 0 usd, for each day or month")
    return ClaudeTeam(metadata=Metadata(name=name), spec=spec)


def _refuse_unknown(team: str, given: dict[str, Any], view: type[msgspec.Struct]) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(view)}
    if unknown := sorted(set(given) - known):
        raise TeamsFileError(f"team {team!r}: unknown field {unknown[0]!r}; there are {', '.join(sorted(known))}")


class Followed:
    """A file and what is done with its content: `take` gets it when it has changed, or None when it cannot be read.

    What `take` cannot use it raises ValueError for; that is logged.
    """

    def __init__(self, path: Path, take: Callable[[bytes | None], None]) -> None:
        self._path = path
        self._take = take
        self._stamp: _Stamp | None = None
        self._problem = ""

    def look(self) -> None:
        """Read it, if it has changed. Blocks."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp == self._stamp:
                return
            content = self._path.read_bytes()
            self._stamp = stamp
            self._take(content)
            self._problem = ""
        except OSError as error:
            self._stamp = None
            self._take(None)
            self._complain(f"cannot be read ({error.strerror})")
        except ValueError as error:
            self._complain(f"cannot be used: {error}")

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            log.error("%s %s", self._path, problem)
        self._problem = problem


class TeamFiles:
    """The files, and `side`, which is always as they are."""

    def __init__(self, keys: Path | None, teams: Path | None) -> None:
        """Either may be missing, not both."""
        self.side = TeamSide(Teams(listed=teams is not None), required=True)
        self._teams_path = teams
        self._files = [Followed(keys, self._take_keys)] if keys else []
        if teams:
            self._files.append(Followed(teams, self._take_teams))
        self._following = Poller("teams and keys", self.look, POLL_SECONDS)

    def check(self) -> None:
        """Raises TeamsFileError and OSError if the teams cannot be read: not to be begun with. Blocks."""
        if self._teams_path:
            read_teams(self._teams_path.read_bytes())

    def look(self) -> None:
        """Read what has changed. Blocks."""
        for file in self._files:
            file.look()

    @contextmanager
    def followed(self) -> Iterator[TeamSide]:
        """Read them, and follow them in a thread while the block runs."""
        self._following.begin()
        try:
            yield self.side
        finally:
            self._following.end()

    def _take_keys(self, content: bytes | None) -> None:
        try:
            records = decode_file(content) if content is not None else {}
        except ValueError:
            self.side.ring.replace({})
            raise
        self.side.ring.replace(records)
        log.info("%d keys of teams are in force", len(records))

    def _take_teams(self, content: bytes | None) -> None:
        if content is not None:
            self.side.teams.replace(teams := read_teams(content))
            log.info("%d teams are in force", len(teams))
