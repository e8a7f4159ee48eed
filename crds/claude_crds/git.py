"""Where a workspace is cloned from: an address and a ref that are safe to hand to git, or a ValueError.

Only https: ssh needs a client and a known host's key, `file:` and `ext::` reach what is none of the asker's, and plain
http would hand code and credentials to whoever is on the way. The same patterns are in the definitions beside this
package (`tests/crds/test_git.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from claude_crds.settings import Kind

URL = r"^https://[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~%@+,=-]+)+/?$"
REF = r"^[A-Za-z0-9_][A-Za-z0-9._/@+-]{0,249}$"
HOST = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$"

URL_RULE = "must be https://HOST/PATH, without a user, a password, a query or spaces"
REF_RULE = "must be a branch, a tag or a whole commit id, not beginning with - and without .."

_URL, _REF, _HOST = (re.compile(pattern, re.ASCII) for pattern in (URL, REF, HOST))
_URL_MAX = 2048
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository's address; `ref` is a branch, a tag or a whole commit id, or empty for the default branch."""

    url: str
    ref: str = ""

    def __post_init__(self) -> None:
        # With `$`, a line's end would pass.
        if len(self.url) > _URL_MAX or not _URL.fullmatch(self.url):
            raise ValueError(f"the address {URL_RULE}")
        if self.ref and (not _REF.fullmatch(self.ref) or ".." in self.ref):
            raise ValueError(f"the ref {REF_RULE}")

    @property
    def host(self) -> str:
        """In lower case, with the port if one is given."""
        return self.url.removeprefix("https://").partition("/")[0].lower()

    @property
    def is_commit(self) -> bool:
        """Whether the ref is a commit id."""
        return bool(_COMMIT.fullmatch(self.ref))

    def __str__(self) -> str:
        return f"{self.url}#{self.ref}" if self.ref else self.url

    def within(self, hosts: Iterable[str]) -> bool:
        """Whether it is on one of these hosts, each as `host`."""
        return self.host in hosts


def parse(text: str) -> GitSource:
    """`URL` or `URL#REF`. Raises ValueError, which says what is wrong without repeating the text."""
    url, sharp, ref = text.partition("#")
    if sharp and not ref:
        raise ValueError(f"the ref {REF_RULE}")
    return GitSource(url, ref)


def is_host(text: str) -> bool:
    """Whether it can be on a list of hosts: lower case, with a port where it is not 443."""
    return bool(_HOST.fullmatch(text))


def address() -> Kind[str]:
    """`URL` or `URL#REF`, for a setting."""
    return Kind(lambda text: str(parse(text)), "https://HOST/PATH or https://HOST/PATH#REF, without a user or password")


def hosts() -> Kind[tuple[str, ...]]:
    """A list of hosts, for a setting."""

    def parse_(text: str) -> tuple[str, ...]:
        found = tuple(h.strip().lower() for h in text.split(",") if h.strip())
        if not all(is_host(host) for host in found):
            raise ValueError
        return found

    return Kind(parse_, "a comma-separated list of hosts, each with :PORT where that is not 443")
