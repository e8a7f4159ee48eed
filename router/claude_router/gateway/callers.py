"""Who calls: a worker's credential, and whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from claude_crds.settings import SettingsError
from claude_router.gateway import errors
from claude_worker.openai.errors import ApiError

NO_TEAM = "default"
"""Team of a session that has none."""

_LONGEST = 16_384


@dataclass(frozen=True, slots=True)
class Caller:
    """A worker: names of its session, team, pool and pod; `uid` is the session's, where there is one."""

    session: str
    team: str = NO_TEAM
    pool: str = ""
    pod: str = ""
    uid: str = ""


class Credentials(Protocol):
    """Knows the workers' credentials."""

    async def check(self, token: str) -> Caller:
        """Whose it is. Raises ApiError: 401 (not, or no longer, valid), 503 (cannot be known now)."""
        ...


def credential_in(headers: Mapping[bytes, bytes]) -> str:
    """The bearer token, or what is in `x-api-key`; header names in lower case. Raises ApiError (401).

    Claude Code's `apiKeyHelper` sends it as both.
    """
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    found = token.strip() if scheme.lower() == b"bearer" else b""
    found = found or headers.get(b"x-api-key", b"").strip()
    if not found:
        raise errors.no_credential()
    if len(found) > _LONGEST or not found.isascii():
        raise errors.bad_credential("it is no token")
    return found.decode()


class StaticCredentials:
    """Credentials that are known beforehand: for one machine, and for tests. Only SHA-256 hashes are kept."""

    def __init__(self, by_hash: Mapping[str, Caller]) -> None:
        """`by_hash`: SHA-256 of the token, in hexadecimal → whose it is."""
        self._callers = dict(by_hash)

    @classmethod
    def of(cls, tokens: Mapping[str, Caller]) -> StaticCredentials:
        """From the tokens themselves."""
        return cls({hashlib.sha256(token.encode()).hexdigest(): caller for token, caller in tokens.items()})

    @classmethod
    def read(cls, path: Path) -> StaticCredentials:
        """From a JSON file: hash → `{"session", "team", "pool", "pod"}`. Raises SettingsError. Blocks."""
        try:
            return cls(msgspec.json.decode(path.read_bytes(), type=dict[str, Caller]))
        except (OSError, msgspec.MsgspecError) as error:
            raise SettingsError(f"CREDENTIALS_FILE: cannot be used: {error}") from error

    async def check(self, token: str) -> Caller:
        """See Credentials. Finding a hash tells nothing about the token, however long it takes."""
        caller = self._callers.get(hashlib.sha256(token.encode()).hexdigest())
        if caller is None:
            raise errors.bad_credential("nobody has it")
        return caller


__all__ = ["NO_TEAM", "ApiError", "Caller", "Credentials", "StaticCredentials", "credential_in"]
