"""How a client says what a new conversation's workspace is cloned from: the header `X-Claude-Workspace-Git: URL[#REF]`.

It counts for the request that begins a conversation; later ones may go on sending it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from claude_crds.git import parse
from claude_router.sessions import Beginning
from claude_worker.openai.errors import ApiError, bad_request

HEADER = b"x-claude-workspace-git"
NAME = "X-Claude-Workspace-Git"

GitHosts = Callable[[str], Collection[str]]
"""By tenant: the hosts from which its new conversations may be cloned."""


def nowhere(_: str) -> Collection[str]:
    """No host at all."""
    return ()


def beginning(headers: Mapping[bytes, bytes], tenant: str, hosts: GitHosts) -> Beginning | None:
    """What the header asks for; None without it. Raises ApiError (400)."""
    raw = headers.get(HEADER)
    if not raw:
        return None
    try:
        source = parse(raw.decode("ascii", "replace").strip())
    except ValueError as error:
        raise bad_request(f"Invalid value for '{NAME}': {error}.", code="invalid_workspace_git", param=NAME) from error
    allowed = hosts(tenant)
    if not source.within(allowed):
        raise _not_allowed(source.host, allowed)
    return Beginning(source)


def _not_allowed(host: str, allowed: Collection[str]) -> ApiError:
    offered = f"allowed: {', '.join(sorted(allowed))}" if allowed else "no host is allowed here"
    return bad_request(
        f"No workspace may be cloned from {host}; {offered}.", code="workspace_git_not_allowed", param=NAME
    )
