"""`X-Claude-Workspace-Git`: what it may name, and that it reaches whoever makes the conversation."""

from __future__ import annotations

from typing import Any

import pytest

from claude_crds.git import GitSource
from claude_router.app import create_app
from claude_router.cluster.pursuit import _workspace
from claude_router.sessions import Beginning, ConversationKey
from claude_router.settings import RouterSettings
from claude_router.workspaces import NAME, beginning
from claude_worker.openai.errors import ApiError
from router.fakes import FakeSessions
from router.harness import CHAT, endpoint, error_of

HOSTS = ("github.com", "git.example.com:8443")


def asked(value: str, hosts: tuple[str, ...] = HOSTS) -> Beginning | None:
    return beginning({b"x-claude-workspace-git": value.encode()}, "t", lambda tenant: hosts if tenant == "t" else ())


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("https://github.com/o/r", GitSource("https://github.com/o/r")),
        (" https://GitHub.com/o/r.git#v1 ", GitSource("https://GitHub.com/o/r.git", "v1")),
        ("https://git.example.com:8443/a/b#main", GitSource("https://git.example.com:8443/a/b", "main")),
    ],
)
def test_what_the_hosts_allow(value: str, source: GitSource) -> None:
    assert asked(value) == Beginning(source)


def test_without_the_header_it_is_as_the_pool_says() -> None:
    assert asked("") is None
    assert beginning({}, "t", lambda _: HOSTS) is None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("https://example.com/o/r", "workspace_git_not_allowed"),
        ("https://github.com:8443/o/r", "workspace_git_not_allowed"),
        ("https://github.com.evil.com/o/r", "workspace_git_not_allowed"),
        ("https://github.com@evil.com/o/r", "invalid_workspace_git"),
        ("https://me:secret@github.com/o/r", "invalid_workspace_git"),
        ("http://github.com/o/r", "invalid_workspace_git"),
        ("git@github.com:o/r", "invalid_workspace_git"),
        ("ext::sh -c id", "invalid_workspace_git"),
        ("file:///etc", "invalid_workspace_git"),
        ("--upload-pack=id", "invalid_workspace_git"),
        ("https://github.com/o/r#--upload-pack=id", "invalid_workspace_git"),
        ("https://github.com/o/ü", "invalid_workspace_git"),
    ],
)
def test_what_is_refused(value: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        asked(value)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, NAME)
    assert "secret" not in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("value", ["https://gone.example.com/o/r", "ext::sh -c id"])
async def test_a_conversation_that_has_begun_goes_on_whatever_the_header_says(value: str) -> None:
    sessions = FakeSessions()
    body = {"model": "claude-code", "messages": [{"role": "user", "content": "x"}]}
    async with endpoint(RuntimeError("nobody is there"), sessions=sessions) as router:
        headers = {"X-Conversation-ID": "a", NAME: value}
        assert (await router.client.post(CHAT, json=body, headers=headers)).status_code == 400
        assert sessions.acquired == []
        sessions.add("a")
        await router.client.post(CHAT, json=body, headers=headers)
        [(key, _)] = sessions.acquired
        assert (key.id, key.begins) == ("a", None)


def test_the_same_conversation_whatever_it_begins_as() -> None:
    one, other = ConversationKey("t", "a"), ConversationKey("t", "a", Beginning(GitSource("https://h/r")))
    assert one == other
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    ("begins", "spec"),
    [
        (Beginning(), {"empty": True}),
        (Beginning(GitSource("https://h/r")), {"git": {"url": "https://h/r"}}),
        (Beginning(GitSource("https://h/r", "v1")), {"git": {"url": "https://h/r", "ref": "v1"}}),
    ],
)
def test_how_the_cluster_is_told(begins: Beginning, spec: dict[str, Any]) -> None:
    assert _workspace(begins) == spec


@pytest.mark.parametrize("hosts", [(), ("git.example.com",)])
async def test_over_http(hosts: tuple[str, ...]) -> None:
    sessions = FakeSessions()
    app = create_app(RouterSettings(), sessions, version="1", git_hosts=lambda _: hosts)
    body = {"model": "claude-code", "messages": [{"role": "user", "content": "x"}]}
    async with endpoint(RuntimeError("nobody is there"), sessions=sessions, app=app) as router:
        header = {NAME: "https://git.example.com/a/b#main"}
        answer = await router.client.post(CHAT, json=body, headers=header)
        if hosts:
            [(key, _)] = sessions.acquired
            assert key.begins == Beginning(GitSource("https://git.example.com/a/b", "main"))
        else:
            assert answer.status_code == 400
            assert error_of(answer)["code"] == "workspace_git_not_allowed"
            assert sessions.acquired == []
