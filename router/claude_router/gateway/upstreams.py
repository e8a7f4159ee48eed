"""The real credentials for the model, from mounted Secrets that are followed as they change.

A folder is an account; see `folders`. One folder is everybody's; `<teams>/<team>/` is that team's own. A team with an
account of its own never gets the shared one's key, nor is that ever sent to a team's address.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from claude_router.gateway import errors
from claude_router.gateway.callers import Caller
from claude_router.gateway.cloud_models import Ids
from claude_router.gateway.folders import API, Folders, Unusable
from claude_router.gateway.teams import Policy
from claude_router.gateway.upstream import Upstream
from claude_router.poller import Poller

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


class Upstreams:
    """See the module. `of` is for the event loop; the folders are read in a thread."""

    def __init__(
        self,
        shared: Path | None,
        teams: Path | None,
        url: str = "",
        *,
        kind: str = API,
        ids: Ids | None = None,
        betas: Collection[str] = (),
    ) -> None:
        """`kind` of the shared account; a team's may be any. `url` is where those of that kind go, unless one says.

        `ids`: the cloud's names of models, for accounts that have none; `betas`: instead of those that clouds know.
        """
        self._shared_folder = shared
        self._teams_folder = teams
        self._folders = Folders({kind: url} if url else {}, ids or {}, frozenset(betas))
        self._kind = kind
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
        return own.at(policy.base_url.rstrip("/")) if policy.base_url else own

    def look(self) -> None:
        """Read them all: they are few and small."""
        found, problem = (
            self._read(self._shared_folder, self._kind) if self._shared_folder else (None, "no folder is set for it")
        )
        teams: dict[str, Upstream] = {}
        team_folders = self._team_folders()
        for folder in team_folders:
            own, why = self._read(folder)
            if own is not None:
                teams[folder.name] = own
            elif folder.name in self._teams:
                log.error("the key of the team %s is gone: %s", folder.name, why)
        if problem != self._problem:
            log.log(logging.ERROR if problem else logging.INFO, "the model's credential: %s", problem or "in force")
        self._shared, self._teams, self._problem = found, teams, problem
        self._folders.forget({*team_folders, *([self._shared_folder] if self._shared_folder else [])})

    def _team_folders(self) -> list[Path]:
        if self._teams_folder is None:
            return []
        try:
            return [path for path in self._teams_folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
        except OSError:
            return []

    def _read(self, folder: Path, kind: str = "") -> tuple[Upstream | None, str]:
        try:
            return self._folders.read(folder, kind), ""
        except Unusable as error:
            return None, str(error)
        except Exception as error:
            # One account must not keep the others' from being read; what was wrong could hold a secret.
            return None, f"it cannot be read ({type(error).__name__})"
