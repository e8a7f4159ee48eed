"""What workers of the local pool are told to clone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from claude_crds.git import GitSource
from claude_crds.settings import SettingsError, load
from claude_router.local.environment import WORKSPACE_GIT, worker_environment
from claude_router.sessions import Beginning, ConversationKey, Lease, SessionFailed
from claude_router.settings import RouterSettings
from router.local.harness import PATIENCE, Pool, pool

OURS = "https://git.example.com/ours#main"
OTHER = Beginning(GitSource("https://git.example.com/other"))


def told(p: Pool, conversation: str) -> str:
    """What the conversation's worker has in its environment."""
    pid = p.worker(conversation).process.pid
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"WORKSPACE_GIT=")), "")


async def acquire(p: Pool, conversation: str, begins: Beginning | None = None) -> Lease:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    return await p.sessions.acquire(ConversationKey("default", conversation, begins), deadline=deadline)


@pytest.mark.asyncio
async def test_a_spare_and_a_conversation_clone_what_all_do(tmp_path: Path) -> None:
    async with pool(tmp_path, warm=1, environment={WORKSPACE_GIT: OURS}) as p:
        await p.until(lambda: any(w.answers() for w in p.live.values()))
        [spare] = p.live
        await acquire(p, "a")
        assert p.worker("a").name == spare
        assert told(p, "a") == OURS


@pytest.mark.asyncio
@pytest.mark.parametrize(("begins", "expected"), [(OTHER, "https://git.example.com/other"), (Beginning(), "")])
async def test_one_of_its_own_beginning_takes_no_spare(tmp_path: Path, begins: Beginning, expected: str) -> None:
    async with pool(tmp_path, warm=1, environment={WORKSPACE_GIT: OURS}) as p:
        await p.until(lambda: any(w.answers() for w in p.live.values()))
        [spare] = p.live
        await acquire(p, "a", begins)
        assert p.worker("a").name != spare
        assert told(p, "a") == expected


@pytest.mark.asyncio
async def test_where_nothing_is_cloned_a_fork_takes_a_spare(tmp_path: Path) -> None:
    async with pool(tmp_path, warm=1) as p:
        await p.until(lambda: any(w.answers() for w in p.live.values()))
        [spare] = p.live
        await acquire(p, "a", Beginning())
        assert p.worker("a").name == spare


@pytest.mark.asyncio
async def test_a_repository_that_cannot_be_cloned_is_one_conversations_trouble(tmp_path: Path) -> None:
    async with pool(tmp_path, environment={WORKSPACE_GIT: OURS}) as p:
        p.broken.write_text("https://git.example.com/other could not be cloned")
        with pytest.raises(SessionFailed, match="could not be cloned"):
            await acquire(p, "a", OTHER)
        assert (await p.sessions.stats()).error == ""
        with pytest.raises(SessionFailed):
            await acquire(p, "b")
        assert "no worker can be started" in (await p.sessions.stats()).error


@pytest.mark.asyncio
async def test_a_resume_clones_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path, environment={WORKSPACE_GIT: OURS}) as p:
        await p.turn("a")
        assert told(p, "a") == OURS
        assert await p.sessions.suspend(ConversationKey("default", "a"))
        await p.turn("a")
        assert told(p, "a") == ""


def test_the_setting() -> None:
    settings = load(RouterSettings, {"WORKSPACE_GIT": OURS, "WORKSPACE_GIT_HOSTS": "GitHub.com"})
    assert settings.workspace_git_hosts == ("github.com",)
    assert worker_environment(settings, {})[WORKSPACE_GIT] == OURS
    with pytest.raises(SettingsError, match="WORKSPACE_GIT") as caught:
        load(RouterSettings, {"WORKSPACE_GIT": "https://me:secret@h/r"})
    assert "secret" not in str(caught.value)
    with pytest.raises(SettingsError, match="WORKSPACE_PER_CONVERSATION"):
        load(RouterSettings, {
            "WORKSPACE_GIT": OURS, "WORKSPACE_DIR": "/x", "WORKSPACE_PER_CONVERSATION": "false",
        })  # fmt: skip
