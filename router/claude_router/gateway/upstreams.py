"""The real credentials for the model, from mounted Secrets that are followed as they change.

A folder holds ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN (the key comes first if both are there), and may hold
ANTHROPIC_BASE_URL. One folder is everybody's; `<teams>/<team>/` is that team's own. A team with an account of its own
never gets the shared key, nor is that ever sent to a team's address.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from claude_router.gateway import errors
from claude_router.gateway.callers import Caller
from claude_router.gateway.teams import Policy
from claude_router.poller import Poller

log = logging.getLogger(__name__)

ANTHROPIC = "https://api.anthropic.com"
POLL_SECONDS = 2.0
_KEY, _TOKEN, _URL = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"
_LARGEST_BYTES = 16_384
_VALUE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go, and the header that opens it. Whatever prints it, prints no secret."""

    url: str
    header: str = field(repr=False)
    value: str = field(repr=False)


class Upstreams:
    """See the module. `of` is for the event loop; the folders are read in a thread."""

    def __init__(self, shared: Path | None, teams: Path | None, url: str = ANTHROPIC) -> None:
        """`url` is where requests go unless a folder or a team says otherwise."""
        self._shared_folder = shared
        self._teams_folder = teams
        self._url = url
        self._shared: Upstream | None = None
        self._teams: dict[str, Upstream] = {}
        self._problem = ""
        following = Poller("the model's credentials", self.look, POLL_SECONDS)
        self.begin, self.end = following.begin, following.end

    @property
    def problem(self) -> str:
        """Why nobody can be served: there is no credential at all."""
        return "" if self._teams else self._problem

    def of(self, caller: Caller, policy: Policy) -> Upstream:
        """Where the caller's requests go. Raises ApiError (503)."""
        if not policy.own_account:
            if self._shared is None:
                raise errors.no_upstream(self._problem or "it has not been read yet")
            return self._shared
        own = self._teams.get(caller.team)
        if own is None:
            raise errors.no_upstream(f"the team {caller.team!r} has an account of its own, and its key is not there")
        return Upstream(policy.base_url.rstrip("/"), own.header, own.value) if policy.base_url else own

    def look(self) -> None:
        """Read them all: they are few and small."""
        found, problem = self._read(self._shared_folder) if self._shared_folder else (None, "no folder is set for it")
        teams: dict[str, Upstream] = {}
        for folder in self._team_folders():
            own, why = self._read(folder)
            if own is not None:
                teams[folder.name] = own
            elif folder.name in self._teams:
                log.error("the key of the team %s is gone: %s", folder.name, why)
        if problem != self._problem:
            log.log(logging.ERROR if problem else logging.INFO, "the model's credential: %s", problem or "in force")
        self._shared, self._teams, self._problem = found, teams, problem

    def _team_folders(self) -> list[Path]:
        if self._teams_folder is None:
            return []
        try:
            return [path for path in self._teams_folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
        except OSError:
            return []

    def _read(self, folder: Path) -> tuple[Upstream | None, str]:
        url = _text(folder / _URL) or self._url
        if not url.startswith(("https://", "http://")):
            return None, f"{_URL} is no http or https address"
        for name in (_KEY, _TOKEN):
            value = _text(folder / name)
            if value and _VALUE.fullmatch(value):
                header = ("x-api-key", value) if name == _KEY else ("authorization", f"Bearer {value}")
                return Upstream(url.rstrip("/"), *header), ""
            if value:
                return None, f"{name} holds blanks or characters that fit in no header"
        return None, f"there is neither {_KEY} nor {_TOKEN}"


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST_BYTES).strip().decode()
    except (OSError, UnicodeDecodeError):
        return ""
