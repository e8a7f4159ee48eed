"""The clients' keys from a folder with one file each, as a mounted Secret gives; followed while the router serves.

A folder that cannot be read or that has no valid key closes the endpoint: a slip must not open it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from claude_router.auth import ApiKeys
from claude_router.poller import Poller
from claude_router.settings import is_api_key

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""The kubelet itself needs up to a minute to bring a Secret's change."""

_LARGEST_BYTES = 4096

_Seen = frozenset[tuple[str, int, int, int]]


class KeyFolder:
    """The folder, and `keys`, which are always those in it."""

    def __init__(self, folder: Path) -> None:
        self.keys = ApiKeys(required=True)
        self._folder = folder
        self._seen: _Seen | None = None
        self._problem = ""
        following = Poller("API keys", self.look, POLL_SECONDS)
        self.begin, self.end = following.begin, following.end

    def look(self) -> None:
        """Read them, if something has changed."""
        try:
            seen = self._stamps()
        except OSError as error:
            self._close(error)
            return
        if seen == self._seen:
            return
        self._seen, self._problem = seen, ""
        keys = [key for name in sorted({stamp[0] for stamp in seen}) if (key := self._read(name))]
        self.keys.replace(keys)
        if keys:
            log.info("%d API keys are in force", len(keys))
        else:
            log.error("%s holds no valid API key: every request is refused until it does", self._folder)

    def _close(self, error: OSError) -> None:
        self.keys.replace(())
        if str(error) != self._problem:
            log.error("the API keys cannot be read (%s): every request is refused until they can be", error)
        self._problem = str(error)
        self._seen = None

    def _stamps(self) -> _Seen:
        """What changes when a file does, even under the same name: a Secret's files are replaced all at once."""
        found = set()
        for path in self._folder.iterdir():
            if path.name.startswith("."):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found.add((path.name, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))
        return frozenset(found)

    def _read(self, name: str) -> str:
        try:
            with (self._folder / name).open("rb") as file:
                text = file.read(_LARGEST_BYTES).strip().decode()
        except (OSError, UnicodeDecodeError) as error:
            log.error("the API key in the file %s is left out: %s", name, type(error).__name__)
            return ""
        if not is_api_key(text):
            log.error("the API key in the file %s is left out: it must be at least 8 printable ASCII characters", name)
            return ""
        return text
