"""Credentials for the model from folders, as mounted Secrets give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_router.gateway.callers import Caller
from claude_router.gateway.teams import OPEN, Policy
from claude_router.gateway.upstream import Api
from claude_router.gateway.upstreams import Upstreams
from claude_worker.openai.errors import ApiError
from router.cluster.test_keys import publish

RED = Caller("conv-a", "red")
OWN = Policy(own_account=True)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def test_a_key_or_a_token(shared: Path) -> None:
    upstreams = Upstreams(shared, None)
    publish(shared, 1, ANTHROPIC_AUTH_TOKEN="token-1")
    upstreams.look()
    assert upstreams.of(RED, OPEN) == Api("https://api.anthropic.com", "authorization", "Bearer token-1")
    publish(shared, 2, ANTHROPIC_API_KEY="key-2\n", ANTHROPIC_BASE_URL="http://lite:4000/anthropic/\n")
    upstreams.look()
    assert upstreams.of(RED, OPEN) == Api("http://lite:4000/anthropic", "x-api-key", "key-2")
    assert upstreams.problem == ""


@pytest.mark.parametrize("files", [
    {}, {"ANTHROPIC_API_KEY": ""}, {"ANTHROPIC_API_KEY": "two words"}, {"ANTHROPIC_API_KEY": "k\r\nx-evil: 1"},
    {"ANTHROPIC_API_KEY": "key", "ANTHROPIC_BASE_URL": "file:///etc/passwd"}, {"OTHER": "key"},
])  # fmt: skip
def test_without_a_good_one_nobody_is_served(
    shared: Path, files: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    publish(shared, 1, ANTHROPIC_API_KEY="key-1")
    upstreams = Upstreams(shared, None)
    upstreams.look()
    upstreams.of(RED, OPEN)
    publish(shared, 2, **files)
    upstreams.look()
    with pytest.raises(ApiError) as refused:
        upstreams.of(RED, OPEN)
    assert refused.value.status == 503
    assert upstreams.problem
    assert "two words" not in caplog.text + refused.value.message
    assert "x-evil" not in caplog.text + refused.value.message


def test_a_team_with_its_own_account_never_gets_the_shared_key(shared: Path, tmp_path: Path) -> None:
    publish(shared, 1, ANTHROPIC_API_KEY="shared-key")
    teams = tmp_path / "teams"
    upstreams = Upstreams(shared, teams)
    upstreams.look()
    for policy in (OWN, Policy(own_account=True, base_url="https://theirs")):
        with pytest.raises(ApiError, match="'red'"):
            upstreams.of(RED, policy)
    (teams / "red").mkdir(parents=True)
    (teams / "..data").mkdir()
    publish(teams / "red", 1, ANTHROPIC_API_KEY="red-key")
    upstreams.look()
    ours = "https://api.anthropic.com"
    assert upstreams.of(RED, OWN) == Api(ours, "x-api-key", "red-key")
    theirs = upstreams.of(RED, Policy(own_account=True, base_url="https://theirs/"))
    assert theirs == Api("https://theirs", "x-api-key", "red-key")
    assert upstreams.of(RED, OPEN) == Api(ours, "x-api-key", "shared-key")
    assert upstreams.of(Caller("b", "blue"), OPEN) == Api(ours, "x-api-key", "shared-key")


def test_an_account_that_cannot_be_read_keeps_no_other_from_being_read(shared: Path, tmp_path: Path) -> None:
    (shared / "ANTHROPIC_API_KEY").write_text("sk-1")
    for team, files in {
        "deep": {"AWS_BEARER_TOKEN_BEDROCK": "k", "AWS_REGION": "eu-west-1", "MODEL_IDS": "[" * 60_000},
        "odd": {"GOOGLE_APPLICATION_CREDENTIALS": "[" * 60_000},
        "good": {"ANTHROPIC_API_KEY": "sk-2"},
    }.items():
        (tmp_path / "teams" / team).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "teams" / team / name).write_text(text)
    upstreams = Upstreams(shared, tmp_path / "teams")
    upstreams.look()
    assert upstreams.problem == ""
    assert upstreams.of(Caller("s", team="good"), Policy(own_account=True)) is not None
    for team in ("deep", "odd"):
        with pytest.raises(ApiError):
            upstreams.of(Caller("s", team=team), Policy(own_account=True))


def test_what_prints_one_prints_no_secret() -> None:
    assert "k3y" not in repr(Api("https://x", "x-api-key", "k3y"))
